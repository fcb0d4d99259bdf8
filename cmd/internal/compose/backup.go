package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/runtime/copies"
	"github.com/drrun/drrun/runtime/estate"
	"github.com/drrun/drrun/runtime/journal"
	"github.com/drrun/drrun/runtime/store"
	"github.com/drrun/drrun/transport/pki"
)

// A backup's file: 8 bytes of magic; length of the header, 4 bytes
// little-endian; the header, JSON; the contents of its sections in their order;
// SHA-256 of all before it.
const (
	backupMagic   = "drrunBK1"
	backupVersion = 1
)

// Sections of a backup.
const (
	sectionState = "state.db"
	sectionCert  = "ca.crt"
	sectionKey   = "ca.key.sealed"
)

// backupHeader opens the file. A drrun that does not know a word of Must
// refuses it; words of May are ignored.
type backupHeader struct {
	Version  int       `json:"version"`
	Must     []string  `json:"must"`
	May      []string  `json:"may"`
	At       time.Time `json:"at"`
	Program  string    `json:"program"`
	Sections []section `json:"sections"`
}

type section struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// CheckState reads a copy of state.db whole, in a folder for temporary files.
func CheckState(state []byte) (err error) {
	dir, err := os.MkdirTemp("", "drrun-backup-")
	if err != nil {
		return fmt.Errorf("cannot check the copy of the state: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := vfs.WriteFile(vfs.OS{}, filepath.Join(dir, store.FileName), state, 0o600); err != nil {
		return fmt.Errorf("cannot check the copy of the state: %w", err)
	}
	s, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		return fmt.Errorf("the copy of the state is not whole: %w", err)
	}
	return s.Close()
}

// EncodeBackup makes the file of a backup: state is a copy of state.db, the CA
// is that of the state folder dir.
func EncodeBackup(state []byte, dir, passphrase, version string, at time.Time) ([]byte, error) {
	cert, key, err := pki.SealCA(vfs.OS{}, filepath.Join(dir, "ca"), passphrase)
	if fault.Is(err, fault.NotFound) {
		return nil, fault.Errorf(fault.Refused, "there is nothing to back up in %s: no estate is applied yet", dir).WithHint("drrun apply estate.lua")
	}
	if err != nil {
		return nil, err
	}
	return encodeBackup(backupHeader{At: at.UTC(), Program: version}, map[string][]byte{sectionState: state, sectionCert: cert, sectionKey: key})
}

func encodeBackup(h backupHeader, contents map[string][]byte) ([]byte, error) {
	h.Version, h.Must, h.May, h.Sections = backupVersion, []string{}, []string{}, nil
	for _, name := range []string{sectionState, sectionCert, sectionKey} {
		h.Sections = append(h.Sections, section{name, int64(len(contents[name]))})
	}
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "cannot encode a backup: %w", err)
	}
	out := append([]byte(backupMagic), binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))...) //nolint:gosec // a header is short
	out = append(out, raw...)
	for _, s := range h.Sections {
		out = append(out, contents[s.Name]...)
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...), nil
}

// decodeBackup reads the file of a backup. fault.Refused: a newer drrun wrote
// it; fault.Corrupt: it is damaged, or no backup.
func decodeBackup(b []byte) (backupHeader, map[string][]byte, error) {
	bad := func(format string, args ...any) (backupHeader, map[string][]byte, error) {
		return backupHeader{}, nil, fault.Errorf(fault.Corrupt, format, args...)
	}
	head := len(backupMagic) + 4
	if len(b) < head+sha256.Size || string(b[:len(backupMagic)]) != backupMagic {
		return bad("it is no backup of a drrun state")
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return bad("it is damaged or cut off: it fails its checksum")
	}
	n := int64(binary.LittleEndian.Uint32(b[len(backupMagic):]))
	if n > int64(len(body)-head) {
		return bad("its header is longer than the file")
	}
	var h backupHeader
	if err := json.Unmarshal(body[head:head+int(n)], &h); err != nil {
		return bad("its header cannot be read: %w", err)
	}
	if h.Version > backupVersion || len(h.Must) > 0 {
		return backupHeader{}, nil, fault.Errorf(fault.Refused, "it has version %d with features %q, this drrun knows %d", h.Version, h.Must, backupVersion).
			WithHint("use the drrun that wrote it (%s), or a newer one", h.Program)
	}
	rest := body[head+int(n):]
	contents := map[string][]byte{}
	for _, s := range h.Sections {
		if s.Size < 0 || s.Size > int64(len(rest)) {
			return bad("section %s is longer than the file", s.Name)
		}
		contents[s.Name], rest = rest[:s.Size], rest[s.Size:]
	}
	for _, name := range []string{sectionState, sectionCert, sectionKey} {
		if contents[name] == nil {
			return bad("it has no section %s", name)
		}
	}
	if h.Version < 1 || len(rest) > 0 {
		return bad("it holds more than its header says")
	}
	return h, contents, nil
}

// Restored says what a restore did.
type Restored struct {
	Estate   string    `json:"estate"`
	Revision uint64    `json:"revision"`
	Runs     int       `json:"runs"`
	At       time.Time `json:"at"`                 // of the backup
	Replaced string    `json:"replaced,omitempty"` // folder that holds what was there before
}

// Restore puts a backup into a state folder. One that holds anything is refused,
// unless force: then what was there is moved aside. The state is marked: it acts
// only when it has been recovered from what the agents hold.
func Restore(ctx context.Context, file []byte, dir, passphrase string, force bool, clk clock.Clock) (Restored, error) {
	h, contents, err := decodeBackup(file)
	if err != nil {
		return Restored{}, fault.Errorf(fault.KindOf(err), "cannot restore: %w", err)
	}
	key, err := pki.OpenSealed(contents[sectionCert], contents[sectionKey], passphrase)
	if err != nil {
		return Restored{}, fault.Errorf(fault.KindOf(err), "cannot restore: %w", err)
	}
	fsys := vfs.OS{}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return Restored{}, fmt.Errorf("cannot make the state folder: %w", err)
	}
	was, held, err := holds(ctx, dir)
	if err != nil {
		return Restored{}, err
	}
	if held && !force {
		return Restored{}, fault.Errorf(fault.Refused, "the state folder %s is not empty: it holds %s", dir, was).
			WithHint("another folder with --state, or --force: what is there is moved aside, and what happened since the backup is lost here")
	}
	release, err := fsys.Lock(filepath.Join(dir, store.LockName))
	if errors.Is(err, vfs.ErrLocked) {
		return Restored{}, fault.Errorf(fault.Unreachable, "cannot restore into %s: %w", dir, err).WithHint("end the drrun that uses the folder first")
	}
	if err != nil {
		return Restored{}, fmt.Errorf("cannot lock the state folder: %w", err)
	}
	out, err := restore(ctx, dir, h, contents, key, clk)
	return out, errors.Join(err, release())
}

func restore(ctx context.Context, dir string, h backupHeader, contents map[string][]byte, key []byte, clk clock.Clock) (out Restored, err error) {
	fsys := vfs.OS{}
	made := filepath.Join(dir, "restore"+vfs.TempSuffix)
	if err := fsys.RemoveAll(made); err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, fsys.RemoveAll(made)) }()
	if err := fsys.MkdirAll(made, 0o700); err != nil {
		return out, err
	}
	if err := vfs.WriteFile(fsys, filepath.Join(made, store.FileName), contents[sectionState], 0o600); err != nil {
		return out, fmt.Errorf("cannot restore the state: %w", err)
	}
	if out, err = markRestored(ctx, made, h.At, clk); err != nil {
		return out, fmt.Errorf("cannot restore the state: %w", err)
	}
	if out.Replaced, err = moveAside(dir, clk); err != nil {
		return out, fmt.Errorf("cannot move aside what was in %s: %w", dir, err)
	}
	if err := pki.RestoreCA(fsys, filepath.Join(dir, "ca"), key, contents[sectionCert]); err != nil {
		return out, err
	}
	if err := fsys.Rename(filepath.Join(made, store.FileName), filepath.Join(dir, store.FileName)); err != nil {
		return out, fmt.Errorf("cannot restore the state: %w", err)
	}
	return out, nil
}

// markRestored checks the state in a folder and marks it.
func markRestored(ctx context.Context, dir string, at time.Time, clk clock.Clock) (Restored, error) {
	s, err := store.OpenBolt(vfs.OS{}, dir)
	if err != nil {
		return Restored{}, err
	}
	out := Restored{At: at}
	if e, err := s.Get(ctx, estate.CurrentKey); err == nil {
		if est, rev, _, err := estate.AppliedIn(e.Value); err == nil {
			out.Estate, out.Revision = est.Name, rev
		}
	}
	for _, err = range s.List(ctx, journal.HeadPrefix) {
		if err != nil {
			break
		}
		out.Runs++
	}
	if err == nil {
		err = copies.SetMark(ctx, s, copies.Mark{At: clk.Now().UTC(), Why: "this state was restored from a backup of " + at.Format(time.RFC3339)})
	}
	return out, errors.Join(err, s.Close())
}

// holds describes what is in a state folder.
func holds(ctx context.Context, dir string) (what string, held bool, err error) {
	fsys := vfs.OS{}
	var parts []string
	_, err = fsys.Stat(filepath.Join(dir, store.FileName))
	switch {
	case err == nil:
		s, err := store.OpenBolt(fsys, dir)
		if fault.Is(err, fault.Unreachable) {
			return "", true, err
		}
		if err != nil {
			parts = append(parts, "a state that cannot be read ("+err.Error()+")")
			break
		}
		text := "a state with no estate"
		if e, err := s.Get(ctx, estate.CurrentKey); err == nil {
			if est, rev, at, err := estate.AppliedIn(e.Value); err == nil {
				text = fmt.Sprintf("estate %s, revision %d of %s", est.Name, rev, at.Format(time.RFC3339))
			}
		}
		runs := 0
		for range s.List(ctx, journal.HeadPrefix) {
			runs++
		}
		parts = append(parts, fmt.Sprintf("%s, with %s", text, quantity.Count(runs, "run")))
		if err := s.Close(); err != nil {
			return "", true, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return "", true, fmt.Errorf("cannot look into the state folder: %w", err)
	}
	entries, err := fsys.ReadDir(filepath.Join(dir, "ca"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", true, fmt.Errorf("cannot look into the state folder: %w", err)
	}
	if len(entries) > 0 {
		parts = append(parts, "a certificate authority")
	}
	return strings.Join(parts, " and "), len(parts) > 0, nil
}

// moveAside keeps what was in a state folder in one of its own.
func moveAside(dir string, clk clock.Clock) (string, error) {
	fsys := vfs.OS{}
	aside, err := unused(filepath.Join(dir, "replaced-"), clk, "")
	if err != nil {
		return "", err
	}
	moved := ""
	for _, name := range []string{store.FileName, "ca"} {
		from := filepath.Join(dir, name)
		if _, err := fsys.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return "", err
		}
		if err := fsys.MkdirAll(aside, 0o700); err != nil {
			return "", err
		}
		if err := fsys.Rename(from, filepath.Join(aside, name)); err != nil {
			return "", err
		}
		moved = aside
	}
	return moved, nil
}

// unused is the name of what is kept of a state: the time, and a number where
// another was kept in the same second. That one stays.
func unused(prefix string, clk clock.Clock, suffix string) (string, error) {
	stem := prefix + clk.Now().UTC().Format("20060102T150405Z")
	name := stem + suffix
	for n := 2; ; n++ {
		if _, err := (vfs.OS{}).Stat(name); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
		name = fmt.Sprintf("%s-%d%s", stem, n, suffix)
	}
}
