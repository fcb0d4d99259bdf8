package hrl_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/vfs"
)

// goldenSize is the disk of the golden logs: 12 blocks and a short one.
const goldenSize = 12*hrl.BlockSize + 1000

func goldenOps() []op {
	const b = hrl.BlockSize
	text := bytes.Repeat([]byte("0123456789abcdef"), 2*b/16)
	return []op{
		{hrl.Data, 6 * b, 2 * b, text}, {hrl.Zero, 0, 2 * b, nil}, {hrl.Discarded, 9 * b, b, nil},
		{hrl.Data, 3 * b, b, bytes.Repeat([]byte{0xa5}, b)}, {hrl.Data, 12 * b, 1000, bytes.Repeat([]byte{7}, 1000)},
	}
}

// The golden files are logs as version 1 wrote them: they stay readable for
// ever. Raw ones are written again byte for byte; packed ones are only read,
// because packed bytes differ between versions of the library.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		kind  hrl.Kind
		codec hrl.Codec
	}{
		{"full_raw_v1", hrl.Full, hrl.Raw}, {"delta_raw_v1", hrl.Delta, hrl.Raw}, {"undo_raw_v1", hrl.Undo, hrl.Raw},
		{"delta_s2_v1", hrl.Delta, hrl.S2}, {"delta_zstd_v1", hrl.Delta, hrl.Zstd},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			golden := filepath.Join("testdata", c.name+".hrl")
			h := header(c.kind, goldenSize)
			path, _ := write(t, h, hrl.Options{Codec: c.codec, Frame: 2 * hrl.BlockSize}, goldenOps())
			written := must(os.ReadFile(path))
			if _, err := os.Stat(golden); os.Getenv("DRRUN_UPDATE") != "" && err != nil {
				ok(t, os.WriteFile(golden, written, 0o600)) // only new ones
			}
			if c.codec == hrl.Raw && !bytes.Equal(written, must(os.ReadFile(golden))) {
				t.Error("the bytes written differ from version 1")
			}
			d, err := hrl.VerifyFile(vfs.OS{}, golden)
			ok(t, err)
			h.Version = 1
			if d.Header != h {
				t.Errorf("header %+v, want %+v", d.Header, h)
			}
			if f := footer(); d.Footer.Instant != f.Instant || d.Footer.Sum != f.Sum || d.Footer.Consistency != f.Consistency {
				t.Errorf("footer %+v", d.Footer)
			}
			if d.StoredBytes[c.codec.String()] == 0 {
				t.Errorf("stored bytes %v, none in %s", d.StoredBytes, c.codec)
			}
			r := must(hrl.Open(vfs.OS{}, golden))
			defer r.Close()
			same(t, r, model(goldenOps(), goldenSize))
		})
	}
}
