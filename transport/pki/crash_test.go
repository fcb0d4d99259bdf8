package pki_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

var errDead = errors.New("the process was killed")

// mortal is a file system under a process that is killed at its n-th change:
// that one and all later ones do not happen, a write happens by half.
type mortal struct {
	vfs.FS
	left int
}

func (m *mortal) dies() bool { m.left--; return m.left < 0 }

func (m *mortal) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if flag != vfs.ReadOnly && m.dies() {
		return nil, errDead
	}
	f, err := m.FS.OpenFile(name, flag, perm)
	return mortalFile{f, m}, err
}

func (m *mortal) Rename(from, to string) error {
	if m.dies() {
		return errDead
	}
	return m.FS.Rename(from, to)
}

func (m *mortal) Remove(name string) error {
	if m.dies() {
		return errDead
	}
	return m.FS.Remove(name)
}

func (m *mortal) MkdirAll(name string, perm fs.FileMode) error {
	if m.dies() {
		return errDead
	}
	return m.FS.MkdirAll(name, perm)
}

type mortalFile struct {
	vfs.File
	m *mortal
}

func (f mortalFile) Write(p []byte) (int, error) {
	if f.m.dies() {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, errDead
	}
	return f.File.Write(p)
}

func (f mortalFile) Sync() error {
	if f.m.dies() {
		return errDead
	}
	return f.File.Sync()
}

// killAt runs f under a process that dies at its first, second, … change,
// until it survives, and after each calls check with how often it had lived.
func killAt(t *testing.T, f func(fsys vfs.FS) error, check func(n int, err error)) {
	t.Helper()
	for n := 0; ; n++ {
		err := f(&mortal{vfs.OS{}, n})
		check(n, err)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d changes of the disk", n)
			}
			return
		}
		if !errors.Is(err, errDead) {
			t.Fatalf("killed at change %d: %v", n, err)
		}
	}
}

// TestKilledWhileTheCAIsMade: the next process opens the CA, or makes it, and
// a key that was stored is the key.
func TestKilledWhileTheCAIsMade(t *testing.T) {
	t.Parallel()
	var dir string
	killAt(t, func(fsys vfs.FS) error {
		dir = filepath.Join(t.TempDir(), "ca")
		_, err := pki.CreateCA(fsys, dir, "acme", clock.Real{})
		return err
	}, func(n int, err error) {
		var stored []byte
		if b, rerr := vfs.ReadFile(vfs.OS{}, filepath.Join(dir, "ca.key")); rerr == nil {
			stored = b
		}
		ca, oerr := pki.OpenCA(vfs.OS{}, dir, clock.Real{})
		if err == nil && oerr != nil {
			t.Fatalf("not killed: %v", oerr)
		}
		if fault.Is(oerr, fault.NotFound) {
			ca, oerr = pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
		}
		if oerr != nil {
			t.Fatalf("killed at change %d: %v", n, oerr)
		}
		now, rerr := vfs.ReadFile(vfs.OS{}, filepath.Join(dir, "ca.key"))
		if rerr != nil || stored != nil && string(now) != string(stored) {
			t.Errorf("killed at change %d: the key changed, %v", n, rerr)
		}
		again, oerr := pki.OpenCA(vfs.OS{}, dir, clock.Real{})
		if oerr != nil || again.Pin() != ca.Pin() || again.Estate() != "acme" {
			t.Errorf("killed at change %d, opened again: %v", n, oerr)
		}
	})
}

// TestKilledWhileIdentityIsStored: the next process finds the identity of
// before or the new one, whole.
func TestKilledWhileIdentityIsStored(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "acme", clock.Real{})
	before, after := newHost(t, ca, "par", "par-1"), newHost(t, ca, "par", "par-1")
	token, _ := pki.NewToken("par-1", ca.Pin())
	for _, first := range []*pki.Identity{nil, before} { // a join, a renewal
		var dir string
		var k *pki.Keeper
		killAt(t, func(fsys vfs.FS) error {
			dir = t.TempDir()
			if first != nil {
				if err := first.Save(vfs.OS{}, dir); err != nil {
					return err
				}
			}
			if err := pki.StoreToken(vfs.OS{}, dir, token); err != nil {
				return err
			}
			var err error
			if k, err = pki.OpenKeeper(fsys, dir, clock.Real{}); err != nil {
				return err
			}
			return k.Store(after)
		}, func(n int, err error) {
			k2, oerr := pki.OpenKeeper(vfs.OS{}, dir, clock.Real{})
			if oerr != nil {
				t.Fatalf("killed at change %d: %v", n, oerr)
			}
			got := secretOf(k2.Identity())
			if got != secretOf(first) && got != secretOf(after) || err == nil && got != secretOf(after) {
				t.Errorf("killed at change %d: neither the old identity nor the new one", n)
			}
			if _, waiting := k2.Token(); !waiting && got != secretOf(after) {
				t.Errorf("killed at change %d: the token went before the identity came", n)
			}
			if err == nil && secretOf(k.Identity()) != got {
				t.Error("the disk has another identity than the process")
			}
		})
	}
}

func secretOf(id *pki.Identity) [32]byte {
	if id == nil {
		return [32]byte{}
	}
	return id.Secret("test")
}
