package quicnet

// WithGRO is withGRO, for its test.
var WithGRO = withGRO
