package plans

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// CanonicalJSON returns the one JSON text of v: object keys sorted, no spaces,
// no HTML escapes, numbers as encoding/json writes them. Equal values give
// equal bytes.
func CanonicalJSON(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot write canonical json: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var tree any // maps of this tree are written with sorted keys
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("cannot write canonical json: %w", err)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(tree); err != nil {
		return nil, fmt.Errorf("cannot write canonical json: %w", err)
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// Hash is the content hash of v: SHA-256 of its canonical JSON, 64 hex digits.
// v is a value of this package, or of any type that marshals; another panics.
func Hash(v any) string {
	b, err := CanonicalJSON(v)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
