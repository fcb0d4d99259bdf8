package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
)

// tokenFile holds the token a host waits to join with, mode 0600, from
// drrun-agent join until the join is done.
const tokenFile = "join.token"

// StoreToken makes the host whose state folder dir is wait to join with t. An
// agent that runs on the folder sees it without a restart.
func StoreToken(fsys vfs.FS, dir string, t Token) error {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot store the token: %w", err)
	}
	if err := vfs.WriteFile(fsys, filepath.Join(dir, tokenFile), []byte(t.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot store the token: %w", err)
	}
	return nil
}

// Keeper is the identity of an agent in its state folder: none yet, waiting
// to join, or joined. It is a quicnet.IdentitySource.
type Keeper struct {
	fsys vfs.FS
	dir  string
	clk  clock.Clock

	mu      sync.Mutex
	id      *Identity
	joinErr error
	joined  chan struct{}
}

// OpenKeeper reads the identity in dir, if there is one.
func OpenKeeper(fsys vfs.FS, dir string, clk clock.Clock) (*Keeper, error) {
	k := &Keeper{fsys: fsys, dir: dir, clk: clk, joined: make(chan struct{})}
	id, err := LoadIdentity(fsys, dir)
	switch {
	case err == nil:
		k.id = id.WithClock(clk)
		close(k.joined)
	case !fault.Is(err, fault.NotFound):
		return nil, err
	}
	return k, nil
}

// Identity returns the current identity, nil before the host has joined.
func (k *Keeper) Identity() *Identity {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.id
}

// Joined is closed once there is an identity.
func (k *Keeper) Joined() <-chan struct{} { return k.joined }

// Token returns the token the host waits to join with; false: none.
func (k *Keeper) Token() (Token, bool) {
	b, err := vfs.ReadFile(k.fsys, filepath.Join(k.dir, tokenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, false
	}
	var t Token
	if err == nil {
		t, err = ParseToken(string(b))
	}
	if err != nil {
		k.JoinFailed(fmt.Errorf("cannot use the stored token: %w", err))
		return Token{}, false
	}
	return t, true
}

// Store makes id the identity, durably, and ends the waiting to join. A crash
// leaves the old identity or the new one; a spent token that it leaves is of no
// use to anybody.
func (k *Keeper) Store(id *Identity) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := id.Save(k.fsys, k.dir); err != nil {
		return err
	}
	if k.id == nil {
		close(k.joined)
	}
	k.id, k.joinErr = id.WithClock(k.clk), nil // in force, since the next start finds it
	if err := k.fsys.Remove(filepath.Join(k.dir, tokenFile)); err != nil {
		return fmt.Errorf("the host has joined, but its spent token is still there: %w", err)
	}
	return nil
}

// JoinFailed records why the last attempt to join failed.
func (k *Keeper) JoinFailed(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.joinErr = err
}

// JoinError returns why the last attempt to join failed; nil: none did, or
// one succeeded since.
func (k *Keeper) JoinError() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.joinErr
}
