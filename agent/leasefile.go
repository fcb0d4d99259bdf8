package agent

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/ident"
	"github.com/drrun/drrun/internal/vfs"
)

const (
	leaseName    = "lease"
	leaseSize    = 512 // bytes of the file, always
	leaseVersion = 1
)

// leaseFile says until when a machine may run here, for the guard and for the
// next agent of the same boot. It is written in place and not synced at each
// renewal: a crash of the agent loses nothing of it, and after one of the host it
// counts for nothing. So a full disk does not stop a machine.
type leaseFile struct {
	Version int           `json:"version"`
	Boot    string        `json:"boot"` // boot id of the host
	Epoch   ident.Epoch   `json:"epoch"`
	Rev     uint64        `json:"rev"`
	Sent    time.Duration `json:"sent"` // the host's uptime when the newest renewal that was granted was sent
	Length  time.Duration `json:"length"`
	Granted bool          `json:"granted"`        // Sent is of a grant, not of the word's begin
	Free    bool          `json:"free,omitempty"` // a person permitted the machine to run without it
}

// ends is the uptime at which the machine must be stopped.
func (l *leaseFile) ends() time.Duration { return l.Sent + l.Length }

// encodeLease makes the content: JSON, blanks, and a sum by which a reader sees
// that it read while another wrote.
func encodeLease(l leaseFile) ([]byte, error) {
	l.Version = leaseVersion
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	const sum = 8 + 1
	if len(b) > leaseSize-sum-1 {
		return nil, fault.Errorf(fault.Internal, "a lease of %d bytes", len(b))
	}
	text := string(b) + strings.Repeat(" ", leaseSize-sum-len(b))
	return fmt.Appendf(nil, "%s%08x\n", text, crc32.ChecksumIEEE([]byte(text))), nil
}

// decodeLease reads it. fault.Corrupt: it is damaged, or being written.
func decodeLease(b []byte) (leaseFile, error) {
	var l leaseFile
	const sum = 8 + 1
	if len(b) != leaseSize {
		return l, fault.Errorf(fault.Corrupt, "the file of a lease has %d bytes", len(b))
	}
	text := b[:leaseSize-sum]
	if string(b[len(text):]) != fmt.Sprintf("%08x\n", crc32.ChecksumIEEE(text)) {
		return l, fault.Errorf(fault.Corrupt, "the file of a lease has another checksum")
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, fault.Wrap(fault.Corrupt, err)
	}
	if l.Version != leaseVersion || l.Length <= 0 || l.ends() < l.Sent {
		return leaseFile{}, fault.Errorf(fault.Corrupt, "the file of a lease has version %d and ends at %s", l.Version, l.ends())
	}
	return l, nil
}

// writeLease writes the file into the folder of a machine.
func writeLease(fsys vfs.FS, dir string, l leaseFile) (err error) {
	b, err := encodeLease(l)
	if err != nil {
		return err
	}
	f, err := fsys.OpenFile(filepath.Join(dir, leaseName), vfs.Create, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// readLease reads it from there.
func readLease(fsys vfs.FS, dir string) (leaseFile, error) {
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, leaseName))
	if err != nil {
		return leaseFile{}, err
	}
	return decodeLease(b)
}
