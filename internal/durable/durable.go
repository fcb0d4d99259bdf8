// Package durable is what the versioned JSON files of a host have in common: a
// newer one is refused by name and left as it is, an older one is brought up to
// date after a copy, and what this program may ignore is kept when it writes.
//
// It knows no format: each is described by the package that reads it.
package durable

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// Step makes the content of a file of the next version from that of one
// version. It is pure: after a crash it is done again.
type Step func(old []byte) ([]byte, error)

// Format is one kind of file whose JSON object begins with version and must.
type Format struct {
	Version int          // that this program writes
	Must    []string     // flags that it understands
	Steps   map[int]Step // by the version they start from; none: no older version is known
	Program string       // that reads the files, for hints
}

// head is what every version of every file has.
type head struct {
	Version int      `json:"version"`
	Must    []string `json:"must"`
}

// Admit looks at a file before it is decoded. It returns content of the
// format's version: data itself, or for an older version what the steps make of
// it, which stands in the file when Admit returns; a copy of the old file stays
// beside it as NAME.vVERSION. Content that is no JSON object is returned as it
// is, for the decoder to complain of. fault.Refused: the file is newer, or needs
// what this program does not know, or is older than any step; it was not
// touched.
func (f *Format) Admit(fsys vfs.FS, name string, data []byte) ([]byte, error) {
	next, from, err := f.upgrade(name, data)
	if err != nil || from == f.Version {
		return next, err
	}
	// The copy is whole before the file changes, and the file changes at once.
	if err := vfs.WriteFile(fsys, fmt.Sprintf("%s.v%d", name, from), data, 0o600); err != nil {
		return nil, fmt.Errorf("cannot keep a copy of %s before it is brought to version %d: %w", name, f.Version, err)
	}
	if err := vfs.WriteFile(fsys, name, next, 0o600); err != nil {
		return nil, fmt.Errorf("cannot bring %s to version %d: %w", name, f.Version, err)
	}
	return next, nil
}

// Upgrade is Admit for files that are never written again: the file stays as it
// is, what is returned is of the format's version.
func (f *Format) Upgrade(name string, data []byte) ([]byte, error) {
	next, _, err := f.upgrade(name, data)
	return next, err
}

func (f *Format) upgrade(name string, data []byte) (next []byte, from int, err error) {
	var h head
	if json.NewDecoder(bytes.NewReader(data)).Decode(&h) != nil {
		return data, f.Version, nil
	}
	if err := f.check(name, h); err != nil || h.Version == f.Version {
		return data, f.Version, err
	}
	next = data
	for v := h.Version; v < f.Version; v++ {
		step := f.Steps[v]
		if step == nil {
			return nil, v, fault.Errorf(fault.Refused, "cannot read %s: it has version %d, and this program brings up none older than %d", name, h.Version, f.oldest()).
				WithHint("use the %s that wrote it, or one in between first; nothing was changed", f.Program)
		}
		if next, err = step(next); err != nil {
			return nil, v, fault.Errorf(fault.Corrupt, "cannot bring %s from version %d to %d: %w", name, v, v+1, err).
				WithHint("use the %s that wrote it; nothing was changed", f.Program)
		}
	}
	return next, h.Version, nil
}

func (f *Format) check(name string, h head) error {
	hint := fmt.Sprintf("use the %s that wrote it, or a newer one; nothing was changed", f.Program)
	if h.Version > f.Version {
		return fault.Errorf(fault.Refused, "cannot read %s: it has version %d, this program knows %d", name, h.Version, f.Version).WithHint("%s", hint)
	}
	for _, flag := range h.Must {
		if !slices.Contains(f.Must, flag) {
			return fault.Errorf(fault.Refused, "cannot read %s: it needs %q, which this program does not know", name, flag).WithHint("%s", hint)
		}
	}
	return nil
}

func (f *Format) oldest() int {
	v := f.Version
	for f.Steps[v-1] != nil {
		v--
	}
	return v
}

// Extra are fields of a JSON object that this program does not know.
type Extra map[string]json.RawMessage

// Unknown returns the fields of the object in data that the struct v has no
// place for; nil: none.
func Unknown(data []byte, v any) (Extra, error) {
	all := Extra{}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	t := reflect.TypeOf(v)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		maps.DeleteFunc(all, func(k string, _ json.RawMessage) bool { return name != "" && strings.EqualFold(k, name) })
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// Marshal encodes a struct and adds the fields of extra, in order of name.
func Marshal(v any, extra Extra) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return b, err
	}
	rest, err := json.Marshal(extra)
	if err != nil || len(b) == len("{}") {
		return rest, err
	}
	return append(append(b[:len(b)-1], ','), rest[1:]...), nil
}
