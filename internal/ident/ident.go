// Package ident holds the identifiers and counters that cross process and
// disk boundaries: each number has a type of its own, so that an epoch is
// never passed where a fencing number belongs.
//
// It is not for nouns with fields (see internal/recovery). All values are
// immutable and safe for concurrent use.
package ident

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// ID is 128 random bits. Its text form is 32 lower-case hex digits.
type ID [16]byte

// NewID returns a fresh random ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails (documented since Go 1.24)
	return id
}

// ParseID reads the text form of an ID. Upper-case digits pass.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("cannot parse id %q: want %d hex digits", s, 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("cannot parse id %q: %w", s, err)
	}
	return id, nil
}

// String returns the 32-digit text form.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 digits, for screens; never for records.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether id is the zero value, which names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler; the zero ID is empty text.
func (id ID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	got, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = got
	return nil
}

// PointID names a recovery point: one state of all disks of a machine.
type PointID struct{ ID }

// LogID names one replication log (a file series), never a point.
type LogID struct{ ID }

// DiskID names a protected disk for as long as it is protected.
type DiskID struct{ ID }

// NewPointID returns a fresh point id.
func NewPointID() PointID { return PointID{NewID()} }

// NewLogID returns a fresh log id.
func NewLogID() LogID { return LogID{NewID()} }

// NewDiskID returns a fresh disk id.
func NewDiskID() DiskID { return DiskID{NewID()} }

// ParsePointID reads the text form of a point id.
func ParsePointID(s string) (PointID, error) {
	id, err := ParseID(s)
	return PointID{id}, err
}

// Epoch counts the changes of a machine's authority record. 0 means none.
type Epoch uint64

// Fence is a runtime's fencing number: agents refuse commands with a lower
// one than they have seen.
type Fence uint64

// Seq orders the recovery points of one machine across epochs. Clocks never do.
type Seq uint64

// MaxName is the longest name of anything an estate or a plan defines, in bytes.
const MaxName = 63

// CheckName refuses a name that could not stand as a folder, in a URI or on a
// screen: machines, disks, hosts, sites, plans and runs are named by lower- or
// upper-case letters, digits, '.', '_' and '-', starting with a letter or digit.
func CheckName(s string) error {
	if s == "" {
		return fmt.Errorf("a name is missing")
	}
	if len(s) > MaxName {
		return fmt.Errorf("name %q is longer than %d bytes", strings.ToValidUTF8(s[:16], "")+"…", MaxName)
	}
	for i, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			i > 0 && strings.ContainsRune("._-", r)
		if !ok {
			return fmt.Errorf("name %q: %q is not allowed (letters, digits, and after the first . _ -)", s, string(r))
		}
	}
	return nil
}
