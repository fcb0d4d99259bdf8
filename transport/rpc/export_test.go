package rpc

// HelloOf is the hello that a program with this Info sends.
func HelloOf(i Info) ([]byte, error) { return i.hello().Encode() }
