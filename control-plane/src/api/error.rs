//! Why a call was refused, once for gRPC and REST.

use crate::model::Problems;
use crate::source::store::StoreError;
use http::StatusCode;
use tonic::{Code, Status};

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request itself cannot be understood.
    #[error("{0}")]
    Invalid(String),
    /// Objects were refused; nothing was written.
    #[error("refused: {0}")]
    Refused(Problems),
    /// Deleting would leave other objects without what they refer to.
    #[error("still referred to: {0}")]
    InUse(Problems),
    /// There is no such thing.
    #[error("{0} not found")]
    NotFound(String),
    /// The object has changed since it was read.
    #[error("{0}")]
    Conflict(String),
    /// There is no such release to go back to, any more or yet.
    #[error("{0}")]
    Unreachable(String),
    /// The store cannot be written by us.
    #[error("{0}")]
    ReadOnly(String),
    /// The store is away.
    #[error("{0}")]
    Unavailable(String),
    /// The caller may not.
    #[error("not allowed: {0}")]
    Denied(String),
}

impl ApiError {
    /// The problems to list, if there are any.
    pub fn problems(&self) -> Option<&Problems> {
        match self {
            Self::Refused(problems) | Self::InUse(problems) => Some(problems),
            _ => None,
        }
    }

    fn code(&self) -> (Code, StatusCode) {
        match self {
            Self::Invalid(_) => (Code::InvalidArgument, StatusCode::BAD_REQUEST),
            Self::Refused(_) => (Code::InvalidArgument, StatusCode::UNPROCESSABLE_ENTITY),
            Self::InUse(_) => (Code::FailedPrecondition, StatusCode::CONFLICT),
            Self::NotFound(_) | Self::Unreachable(_) => (Code::NotFound, StatusCode::NOT_FOUND),
            Self::Conflict(_) => (Code::Aborted, StatusCode::CONFLICT),
            Self::ReadOnly(_) => (Code::FailedPrecondition, StatusCode::METHOD_NOT_ALLOWED),
            Self::Unavailable(_) => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
            Self::Denied(_) => (Code::PermissionDenied, StatusCode::FORBIDDEN),
        }
    }

    /// As HTTP says it.
    pub fn http_status(&self) -> StatusCode {
        self.code().1
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let details = error.problems().map(super::convert::problems).unwrap_or_default();
        let details = prost::Message::encode_to_vec(&details);
        Self::with_details(error.code().0, error.to_string(), details.into())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict(_) => Self::Conflict(error.to_string()),
            StoreError::NoInstance { service, id } => Self::NotFound(format!("instance {id} of {service}")),
            StoreError::ReadOnly(_) => Self::ReadOnly(error.to_string()),
            StoreError::Refused(reason) => Self::Invalid(reason.clone()),
            StoreError::Unavailable { .. } => Self::Unavailable(crate::source::store::causes(&error)),
        }
    }
}
