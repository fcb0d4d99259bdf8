package pki

// ParseBundle is the reader of PEM files, for the fuzz target.
func ParseBundle(b []byte) error {
	_, err := parseBundle(b)
	return err
}

// ParseSealed reads a sealed key without opening it.
var ParseSealed = parseSealed
