package journal

import "testing"

// MaxBody lets a body have at most n bytes until the test ends.
func MaxBody(t *testing.T, n int) {
	was := maxBody
	maxBody = n
	t.Cleanup(func() { maxBody = was })
}
