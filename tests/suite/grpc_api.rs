//! Every call of the gRPC API (`portolan.api.v1.ControlPlane`), in the clear, and over TLS with a token.

use anyhow::Result;
use e2e::certs::Authority;
use e2e::control::Control;
use e2e::eventually;
use e2e::https::Tls;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use xds_types::google::protobuf::{Duration, UInt64Value};
use xds_types::portolan::api::v1::control_plane_client::ControlPlaneClient;
use xds_types::portolan::api::v1::{self, applied::Outcome};
use xds_types::portolan::config::v1::{
    AccessToken, Backend, Resource, Route, Rule, Service, access_token, resource::Spec,
};

#[derive(Clone)]
struct Token(Option<String>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

type Client = ControlPlaneClient<InterceptedService<Channel, Token>>;

async fn client(addr: SocketAddr, tls: Option<Tls>, token: Option<&str>) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    let channel = match tls {
        None => endpoint.connect().await?,
        Some(tls) => {
            let connect = tower_service(tls, addr);
            endpoint.connect_with_connector(connect).await?
        }
    };
    Ok(ControlPlaneClient::with_interceptor(channel, Token(token.map(str::to_owned))))
}

fn tower_service(
    tls: Tls,
    addr: SocketAddr,
) -> impl tower::Service<
    http::Uri,
    Response = TokioIo<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>,
    Error = std::io::Error,
    Future: Send,
> {
    tower::service_fn(move |_| {
        let tls = tls.clone();
        async move { tls.connect(addr).await.map(TokioIo::new).map_err(std::io::Error::other) }
    })
}

fn service(name: &str) -> Resource {
    Resource { name: name.to_owned(), spec: Some(Spec::Service(Service::default())), ..Resource::default() }
}

fn route(gateway: &str) -> Resource {
    let backend = Backend { service: "web".to_owned(), ..Backend::default() };
    let rule = Rule { backends: vec![backend], ..Rule::default() };
    let spec = Route { gateways: vec![gateway.to_owned()], rules: vec![rule], ..Route::default() };
    Resource { name: "shop".to_owned(), spec: Some(Spec::Route(spec)), ..Resource::default() }
}

fn apply(resource: Resource, if_revision: Option<u64>) -> v1::ApplyRequest {
    let if_revision = if_revision.map(|value| UInt64Value { value });
    v1::ApplyRequest {
        objects: vec![v1::ApplyObject { resource: Some(resource), if_revision }],
        ..v1::ApplyRequest::default()
    }
}

fn named(kind: &str, name: &str) -> v1::GetRequest {
    v1::GetRequest { kind: kind.to_owned(), name: name.to_owned() }
}

async fn every_call(api: &mut Client) {
    // Objects.
    let applied = api.apply(apply(service("web"), Some(0))).await.unwrap().into_inner().applied;
    assert_eq!((applied[0].object.as_str(), applied[0].outcome()), ("Service/web", Outcome::Created));
    let revision = applied[0].revision;
    let stale = api.apply(apply(service("web"), Some(revision + 1))).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted, "{stale}");
    let refused = api.apply(apply(route("gone"), None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let problems = <v1::Problems as prost::Message>::decode(refused.details()).unwrap().problems;
    assert_eq!(problems[0].path, "spec.gateways[0]", "{problems:?}");
    let said = api
        .validate(v1::ValidateRequest { resources: vec![route("gone")], ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert!(!said.accepted && said.problems.len() == 1, "{said:?}");
    let got = api.get(named("service", "web")).await.unwrap().into_inner();
    assert!(got.in_force && got.revision == revision && got.source == "embedded", "{got:?}");
    assert_eq!(api.get(named("service", "none")).await.unwrap_err().code(), Code::NotFound);
    let all = api.list(v1::ListRequest::default()).await.unwrap().into_inner().objects;
    assert_eq!(all.len(), 1);

    // Instances.
    let instance = v1::Instance {
        service: "web".to_owned(),
        address: "10.0.0.1".to_owned(),
        port: 80,
        ..v1::Instance::default()
    };
    let ttl = Some(Duration { seconds: 60, nanos: 0 });
    let registered =
        api.register_instance(v1::RegisterInstanceRequest { instance: Some(instance), ttl }).await.unwrap();
    let id = registered.into_inner().id;
    assert_eq!(id, "10.0.0.1:80");
    let beat = v1::HeartbeatRequest { service: "web".to_owned(), id: id.clone() };
    assert_eq!(api.heartbeat(beat.clone()).await.unwrap().into_inner().ttl, ttl);
    eventually("the instance is listed", async || {
        let listed = api.list_instances(v1::ListInstancesRequest::default()).await?.into_inner().instances;
        anyhow::ensure!(listed.len() == 1 && listed[0].source == "embedded", "{listed:?}");
        Ok(())
    })
    .await;
    let gone = v1::DeregisterInstanceRequest { service: "web".to_owned(), id };
    api.deregister_instance(gone.clone()).await.unwrap();
    assert_eq!(api.deregister_instance(gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.heartbeat(beat).await.unwrap_err().code(), Code::NotFound);

    // The fleet.
    let status = api.status(v1::StatusRequest::default()).await.unwrap().into_inner();
    assert!(status.sources[0].synced && status.sources[0].objects >= 1, "{status:?}");

    // Tokens.
    let wanted = v1::CreateTokenRequest {
        name: "ci".to_owned(),
        role: access_token::Role::Operator.into(),
        ttl: None,
    };
    let made = api.create_token(wanted.clone()).await.unwrap().into_inner();
    assert!(made.token.starts_with("ptl_"));
    assert!(!format!("{made:?}").contains(&made.token));
    assert_eq!(api.create_token(wanted).await.unwrap_err().code(), Code::Aborted, "the name is taken");
    let tokens = api.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens;
    assert_eq!((tokens[0].name.as_str(), tokens[0].role()), ("ci", access_token::Role::Operator));
    api.revoke_token(v1::RevokeTokenRequest { name: "ci".to_owned() }).await.unwrap();
    let again = api.revoke_token(v1::RevokeTokenRequest { name: "ci".to_owned() }).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    let own = Resource {
        name: "own".to_owned(),
        spec: Some(Spec::Token(AccessToken { sha256: "0".repeat(64), ..AccessToken::default() })),
        ..Resource::default()
    };
    let refused = api.apply(apply(own, None)).await.unwrap_err();
    assert!(refused.message().contains("portolan token create"), "{refused}");
    let resealed = api.reseal_secrets(v1::ResealSecretsRequest {}).await.unwrap().into_inner();
    assert_eq!(resealed, v1::ResealSecretsResponse::default(), "there is nothing to do");

    let delete =
        v1::DeleteRequest { kind: "Service".to_owned(), name: "web".to_owned(), ..Default::default() };
    api.delete(delete.clone()).await.unwrap();
    assert_eq!(api.delete(delete).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_in_the_clear() {
    let control = Control::start(&[]).await.unwrap();
    every_call(&mut client(control.api, None, None).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_over_tls_with_a_token_and_none_without() {
    let authority = Authority::new("api").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue(&["localhost", "127.0.0.1"]).unwrap().write(dir.path(), "api").unwrap();
    let token = "a-bootstrap-token-of-the-tests";
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, token).unwrap();
    let control = Control::start(&[
        &format!("--api-cert-file={}", cert.display()),
        &format!("--api-key-file={}", key.display()),
        &format!("--admin-token-file={}", token_file.display()),
    ])
    .await
    .unwrap();
    let tls = Tls::new(&authority.pem, "localhost", None).unwrap();
    every_call(&mut client(control.api, Some(tls.clone()), Some(token)).await.unwrap()).await;
    for wrong in [None, Some("another-token-of-some-length")] {
        let mut api = client(control.api, Some(tls.clone()), wrong).await.unwrap();
        let status = api.status(v1::StatusRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let applied = api.apply(apply(service("web"), None)).await.unwrap_err();
        assert_eq!(applied.code(), Code::Unauthenticated, "{applied}");
    }
    // What a role may not, it is told.
    let mut admin = client(control.api, Some(tls.clone()), Some(token)).await.unwrap();
    let viewer = v1::CreateTokenRequest { name: "eyes".to_owned(), ..v1::CreateTokenRequest::default() };
    let viewer = admin.create_token(viewer).await.unwrap().into_inner().token;
    let mut viewer = client(control.api, Some(tls), Some(&viewer)).await.unwrap();
    viewer.list(v1::ListRequest::default()).await.unwrap();
    for denied in [
        viewer.apply(apply(service("web"), None)).await.unwrap_err(),
        viewer.list_tokens(v1::ListTokensRequest {}).await.unwrap_err(),
    ] {
        assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    }
}
