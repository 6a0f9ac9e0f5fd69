//! Predictors that the service's tests deploy; each is an example of this package.
