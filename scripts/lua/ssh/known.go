package ssh

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// known is what a plan knows of the keys of a host.
type known struct {
	names  []string // that its lines may have
	lookup ssh.HostKeyCallback
	bad    error // why the host was refused
}

// newKnown reads the lines of a known_hosts file.
func newKnown(text string, names ...string) (*known, error) {
	f, err := os.CreateTemp("", "drrun-known-hosts-") // the library reads files only
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // a temporary file
	_, err = f.WriteString(text + "\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	lookup, err := knownhosts.New(f.Name())
	if err != nil {
		return nil, errors.New("known_hosts holds no lines of a known_hosts file: HOST TYPE KEY, as ssh-keyscan prints them")
	}
	return &known{names: names, lookup: lookup}, nil
}

// find asks for a key under each name; nil: it is known.
func (k *known) find(remote net.Addr, key ssh.PublicKey) (err error) {
	for _, name := range k.names {
		err = k.lookup(name, remote, key)
		var unknown *knownhosts.KeyError
		if !errors.As(err, &unknown) || len(unknown.Want) > 0 {
			return err // this name has lines, or the key is known
		}
	}
	return err
}

// check implements ssh.HostKeyCallback.
func (k *known) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	err := k.find(remote, key)
	seen := ssh.FingerprintSHA256(key)
	var other *knownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &other) && len(other.Want) > 0:
		k.bad = fmt.Errorf("the key of %s (%s %s) is not the one in known_hosts: another machine answers there, or it has a new key", k.names[0], key.Type(), seen)
	case errors.As(err, &other):
		k.bad = fmt.Errorf("known_hosts says nothing of %s; its key is %s %s: compare that on the machine, then add the line %s",
			k.names[0], key.Type(), seen, knownhosts.Line(k.names[:1], key))
	default:
		k.bad = fmt.Errorf("the key of %s (%s %s) is refused: %w", k.names[0], key.Type(), seen, err)
	}
	return k.bad
}

// nobody's key is asked for to learn which ones are known.
type nobodysKey struct{}

func (nobodysKey) Type() string                        { return "none" }
func (nobodysKey) Marshal() []byte                     { return nil }
func (nobodysKey) Verify([]byte, *ssh.Signature) error { return errors.New("nobody's key") }

// algorithms are those of the keys that are known of the host: it may have more
// keys than known_hosts names. nil: any.
func (k *known) algorithms() (out []string) {
	var err *knownhosts.KeyError
	if !errors.As(k.find(&net.TCPAddr{IP: net.IPv4zero}, nobodysKey{}), &err) {
		return nil
	}
	for _, w := range err.Want {
		if w.Key.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		}
		out = append(out, w.Key.Type())
	}
	return out
}
