// Package ssh is the Lua module drrun.ssh: commands on machines that have no
// agent, from the controller. The host's key must be known beforehand. Its
// operations are unsafe unless the plan says otherwise, as those of exec.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	lua "github.com/yuin/gopher-lua"
	"golang.org/x/crypto/ssh"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
)

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{"run": func(L *lua.LState) int { return run(e, L) }}
}

const name = "ssh.run"

// handshakeTime bounds the connection up to the command: a host that accepts it
// and says nothing is not waited for as long as a command is.
const handshakeTime = 30 * time.Second

// command is one call as the script gave it; texts may be secrets.
type command struct {
	hostcall.Program
	e          *hostcall.Env
	host, addr string // as the plan says it, host:port; its address in this run
	user       string
	key, known lua.LValue
	line       lua.LValue // sh; nil: the program
	stdin      lua.LValue // nil: empty
	within     time.Duration
}

func run(e *hostcall.Env, L *lua.LState) int {
	o := L.CheckTable(1)
	hostcall.Options(L, name, o)
	text := func(key string) lua.LValue {
		v := o.RawGetString(key)
		if v != lua.LNil && !hostcall.IsText(v) {
			L.RaiseError("ssh.run: %s is a %s, want a string", key, v.Type())
		}
		return v
	}
	host, okHost := text("host").(lua.LString)
	user, okUser := text("user").(lua.LString)
	c := &command{e: e, Program: hostcall.ReadProgram(L, name, o), host: withPort(string(host)), user: string(user), key: text("key"),
		known: text("known_hosts"), line: text("sh"), stdin: text("stdin"),
		within: hostcall.Within(L, o.RawGetString("within"), plans.DefaultWithin)}
	c.addr = e.Address(c.host)
	_, isSecret := hostcall.AsSecret(c.key)
	switch {
	case !okHost || !okUser || host == "" || user == "":
		L.RaiseError("ssh.run: host and user are needed")
	case !isSecret:
		L.RaiseError(`ssh.run: key is missing: a secret that holds a private key, key = secret "…"`)
	case c.known == lua.LNil:
		L.RaiseError("ssh.run: known_hosts is missing: the lines of a known_hosts file that name %s, or a secret that holds them", string(host))
	case (len(c.Cmd) > 0) == (c.line != lua.LNil):
		L.RaiseError("ssh.run: one of cmd (a list) and sh (a line for the host's shell) is needed")
	}
	var got hostcall.Result
	e.Op(L, name, c.Class, c.shown(), &got, func(ctx context.Context, _ string) (any, error) { return c.do(ctx) })
	return c.Ended(e, L, name, c.what(), got)
}

// withPort adds the port of ssh to a host that says none.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "22")
}

// what names the command in messages.
func (c *command) what() string {
	if c.line != lua.LNil {
		return fmt.Sprintf("%q on %s", hostcall.Shown(c.line), c.host)
	}
	return c.Shown()[0] + " on " + c.host
}

// shown is the command for the journal, without secrets.
func (c *command) shown() map[string]any {
	m := map[string]any{"host": c.addr, "user": c.user, "within": c.within.String()}
	if c.line != lua.LNil {
		m["sh"] = hostcall.Shown(c.line)
	} else {
		m["cmd"] = c.Shown()
	}
	if c.stdin != lua.LNil {
		m["stdin"] = hostcall.Shown(c.stdin)
	}
	return m
}

func (c *command) do(ctx context.Context) (any, error) {
	line, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	client, err := c.connect(limited)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }() // it may be closed
	var begun atomic.Pointer[ssh.Session]
	stop := context.AfterFunc(limited, func() {
		if s := begun.Load(); s != nil {
			late := time.AfterFunc(time.Second, func() { _ = client.Close() }) // the host may not even take that
			_ = s.Signal(ssh.SIGTERM)
			late.Stop()
		}
		_ = client.Close() // ends what waits below
	})
	defer stop()
	s, err := client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("%s opens no session: %w", c.host, err)
	}
	var out, errs hostcall.Tail
	s.Stdout, s.Stderr = &out, &errs
	if c.stdin != lua.LNil {
		text, err := c.e.Open(ctx, c.stdin)
		if err != nil {
			return nil, err
		}
		s.Stdin = strings.NewReader(text)
	}
	begun.Store(s)
	res := hostcall.Result{}
	err = s.Run(line)
	res.Output, res.Stderr = out.String(), errs.String()
	var exit *ssh.ExitError
	switch {
	case err != nil && limited.Err() != nil: // also by the signal of above
		return nil, c.Unclear("ssh.run: %s did not end in time (within %s): what it did is unknown", c.what(), c.within)
	case errors.As(err, &exit):
		res.Exit = exit.ExitStatus()
	case err != nil:
		return nil, c.Unclear("ssh.run: %s: the connection ended before the command did: what it did is unknown: %w", c.what(), err)
	}
	return res, nil
}

// open is the line for the host's shell: of a list each word is quoted.
func (c *command) open(ctx context.Context) (string, error) {
	if c.line != lua.LNil {
		return c.e.Open(ctx, c.line)
	}
	words, err := c.Open(ctx, c.e)
	if err != nil {
		return "", err
	}
	for i, w := range words {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " "), nil
}

// connect ends with a client whose host was known and who was let in.
func (c *command) connect(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	pem, err := c.e.Open(ctx, c.key)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey([]byte(pem))
	if err != nil { // its words may be those of the key
		return nil, fault.Errorf(fault.Failed, "secret %s is no private key without a passphrase (OpenSSH or PEM)", hostcall.Shown(c.key))
	}
	text, err := c.e.Open(ctx, c.known)
	if err != nil {
		return nil, err
	}
	known, err := newKnown(text, c.host, c.addr)
	if err != nil {
		return nil, err
	}
	conn, err := c.e.Dial(ctx, "tcp", c.addr)
	if err != nil {
		return nil, fmt.Errorf("cannot reach %s: %w", c.host, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the handshake
	sc, chans, reqs, err := ssh.NewClientConn(conn, c.host, &ssh.ClientConfig{User: c.user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: known.check, HostKeyAlgorithms: known.algorithms()})
	if !stop() || err != nil {
		_ = conn.Close() // nothing was asked for
		switch {
		case known.bad != nil:
			return nil, known.bad
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s accepts the connection and says nothing in time", c.host)
		}
		return nil, fmt.Errorf("%s lets user %s not in: %w", c.host, c.user, err)
	}
	return ssh.NewClient(sc, chans, reqs), nil
}
