package hrl_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/drrun/drrun/agent/hrl"
	"github.com/drrun/drrun/internal/vfs"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for seed := range uint64(24) {
		codec := []hrl.Codec{hrl.Auto, hrl.Raw, hrl.S2, hrl.Zstd}[seed%4]
		t.Run(fmt.Sprintf("%s-%d", codec, seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			size := rnd.Int64N(4<<20) + 1
			ops := randomOps(rnd, size)
			o := hrl.Options{Codec: codec, Frame: []int{0, hrl.BlockSize, 1 << 20, 64 << 10}[rnd.IntN(4)]}
			path, info := write(t, header(hrl.Delta, size), o, ops)
			file := must(os.ReadFile(path))
			if sha256.Sum256(file) != info.SHA256 || int64(len(file)) != info.Size {
				t.Error("size or SHA-256 is not that of the file")
			}
			r := must(hrl.Open(vfs.OS{}, path))
			defer r.Close()
			want := header(hrl.Delta, size)
			want.Version = hrl.FormatVersion
			if r.Header() != want {
				t.Errorf("header %+v, want %+v", r.Header(), want)
			}
			f := r.Footer()
			if f.Instant != footer().Instant || f.Consistency != footer().Consistency || f.Sum != footer().Sum {
				t.Errorf("footer %+v", f)
			}
			if f.Extents != info.Extents || f.DataBytes != info.DataBytes || f.ZeroBytes != info.ZeroBytes {
				t.Errorf("counts %+v, want %+v", f, info)
			}
			same(t, r, model(ops, size))
		})
	}
}

func TestCodecForAReader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want  hrl.Codec
		known []string
		get   hrl.Codec
	}{
		{hrl.Auto, hrl.Codecs(), hrl.S2},
		{hrl.Zstd, hrl.Codecs(), hrl.Zstd},
		{hrl.Raw, hrl.Codecs(), hrl.Raw},
		{hrl.Zstd, []string{"raw", "s2"}, hrl.S2},
		{hrl.Auto, []string{"zstd", "lz77"}, hrl.Zstd},
		{hrl.Auto, []string{"lz77"}, hrl.Raw},
		{hrl.S2, nil, hrl.Raw},
	} {
		if got := c.want.For(c.known); got != c.get {
			t.Errorf("%s for a reader of %v: %s, want %s", c.want, c.known, got, c.get)
		}
	}
}
