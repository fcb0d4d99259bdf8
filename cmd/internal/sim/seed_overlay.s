//go:build detrt

// The body of seedRuntime is in the runtime.
