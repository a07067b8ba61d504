//! Bounded state machines fed with `now`: none yet; retry, backoff, circuit and token bucket come here.
