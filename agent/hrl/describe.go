package hrl

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/drrun/drrun/internal/vfs"
)

// Description is what is shown of a log file.
type Description struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"` // bytes of the file
	Header Header `json:"header"`
	Footer Footer `json:"footer"`

	// The rest is only known after VerifyFile.
	Verified bool `json:"verified"`
	// StoredBytes are those of frames, by codec; frames without content count
	// as raw.
	StoredBytes map[string]int64 `json:"stored_bytes,omitempty"`
	SHA256      string           `json:"sha256,omitempty"` // of the file
}

// Describe opens a log, which checks header, footer and index, and says what
// it holds. Frames are not read.
func Describe(fsys vfs.FS, path string) (_ Description, err error) {
	r, err := Open(fsys, path)
	if err != nil {
		return Description{}, err
	}
	return r.describe(), r.Close()
}

func (r *Reader) describe() Description {
	return Description{Path: r.path, Size: r.size, Header: r.h, Footer: r.f}
}

// VerifyFile reads the whole log, checks every frame, and describes it.
func VerifyFile(fsys vfs.FS, path string) (_ Description, err error) {
	r, err := Open(fsys, path)
	if err != nil {
		return Description{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	d := r.describe()
	d.StoredBytes = map[string]int64{}
	count := func(f *decodedFrame, stored int64) { d.StoredBytes[f.codec.String()] += stored }
	if err := r.walk(count, func(Extent, []byte) error { return nil }); err != nil {
		return d, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(r.file, 0, r.size)); err != nil {
		return d, fmt.Errorf("cannot read log %s: %w", path, err)
	}
	d.SHA256 = hex.EncodeToString(sum.Sum(nil))
	d.Verified = true
	return d, nil
}
