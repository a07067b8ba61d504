//! What a policy names that does not exist, and what only some policies may say.

use xds_types::portolan::config::v1::{Policy, policy::Policy as Member, target::Of};

use super::References;
use crate::model::{ObjectKey, Problem, Problems, Severity};
use crate::translate::policy::{self, Policies, STAGES};

impl References<'_> {
    pub(super) fn check_policy(
        &self,
        key: &ObjectKey,
        spec: &Policy,
        severity: Severity,
        found: &mut Problems,
    ) {
        let mut say = |path: String, message: String, severity| {
            found.extend([Problem { object: Some(key.clone()), path, message, severity }]);
        };
        for (i, target) in spec.targets.iter().enumerate() {
            let path = format!("spec.targets[{i}]");
            match &target.of {
                Some(Of::Gateway(name)) if !self.has_gateway(name) => {
                    say(format!("{path}.gateway"), format!("there is no Gateway `{name}`"), severity);
                }
                Some(Of::Route(name)) => match self.routes.get(name.as_str()) {
                    None => say(format!("{path}.route"), format!("there is no Route `{name}`"), severity),
                    Some(route) => {
                        let mut rules = route.rules.iter().enumerate();
                        if !target.rule.is_empty() && !rules.any(|(i, r)| policy::is_rule(&target.rule, i, r))
                        {
                            let message = format!("Route `{name}` has no rule `{}`", target.rule);
                            say(format!("{path}.rule"), message, severity);
                        }
                    }
                },
                // A service needs no object.
                Some(Of::Gateway(_) | Of::Service(_)) | None => {}
            }
        }
        if let Some(Member::RateLimitDomain(domain)) = &spec.policy {
            // Whose name comes first counts.
            let same = self.policies.iter().find(
                |(_, p)| matches!(&p.policy, Some(Member::RateLimitDomain(d)) if d.domain == domain.domain),
            );
            if let Some((first, _)) = same.filter(|(first, _)| **first != key) {
                let message = format!("`{}` is defined by {first}", domain.domain);
                say("spec.rate_limit_domain.domain".to_owned(), message, severity);
            }
        }
        if Policies::new(self.policies.iter().map(|(key, p)| (*key, *p))).stages() > STAGES {
            let message = format!(
                "policies may say at most {STAGES} different things of on_failure, timeout, status and headers together"
            );
            say("spec.rate_limit".to_owned(), message, severity);
        }
    }
}
