package pki_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/drrun/drrun/internal/clock"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/vfs"
	"github.com/drrun/drrun/transport/pki"
)

func TestSealedCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	ca, err := pki.CreateCA(vfs.OS{}, dir, "acme", clock.Real{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = pki.SealCA(vfs.OS{}, dir, "short")
	wantFault(t, err, fault.Invalid, "5 bytes")
	_, _, err = pki.SealCA(vfs.OS{}, t.TempDir(), "correct horse")
	wantFault(t, err, fault.NotFound)
	cert, box, err := pki.SealCA(vfs.OS{}, dir, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.OpenSealed(cert, box, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := vfs.ReadFile(vfs.OS{}, filepath.Join(dir, "ca.key"))
	if err != nil || !bytes.Equal(raw, key) || bytes.Contains(box, raw[40:80]) {
		t.Errorf("the key was not sealed and opened as it is (%v)", err)
	}
	_, err = pki.OpenSealed(cert, box, "wrong horse")
	wantFault(t, err, fault.Refused, "the passphrase does not open")
	_, err = pki.OpenSealed(newCA(t, "acme", clock.Real{}).CertPEM(), box, "correct horse")
	wantFault(t, err, fault.Refused)

	again := filepath.Join(t.TempDir(), "ca")
	if err := pki.RestoreCA(vfs.OS{}, again, key, cert); err != nil {
		t.Fatal(err)
	}
	restored, err := pki.OpenCA(vfs.OS{}, again, clock.Real{})
	if err != nil || restored.Pin() != ca.Pin() || restored.Estate() != "acme" {
		t.Errorf("restored: %v", err)
	}
}

func FuzzSealed(f *testing.F) {
	f.Add([]byte(`{"version":1,"must":[],"kdf":"argon2id","time":1,"memory":8,"threads":1,"salt":"AAAAAAAAAAAAAA==","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","box":"AA=="}`))
	f.Add([]byte(`{"version":1,"memory":4294967295,"kdf":"argon2id"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := pki.ParseSealed(b); err == nil && (s.Memory > 1<<20 || s.Time > 64) {
			t.Errorf("%q may take %d KiB and %d passes", b, s.Memory, s.Time)
		}
	})
}
