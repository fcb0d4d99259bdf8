package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/command"
	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/logkit"
)

const (
	defaultCheckTimeout = 5 * time.Second
	maxBody             = 1 << 20 // bytes of an answer that are searched
	localAddress        = "127.0.0.1"
)

// check asks one readiness question once. An answer that is not good is a
// result, not an error.
func (m *machine) check(ctx context.Context, in command.CheckRequest) (command.CheckResult, error) {
	if in.Timeout <= 0 {
		in.Timeout = defaultCheckTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, in.Timeout, fmt.Errorf("no answer within %s", in.Timeout))
	defer cancel()
	var detail string
	var err error
	switch {
	case in.Check.TCP != "":
		detail, err = checkTCP(ctx, in)
	case in.Check.HTTP != "":
		detail, err = checkHTTP(ctx, in)
	case len(in.Check.Exec) > 0:
		return m.checkExec(ctx, in)
	default:
		return command.CheckResult{}, fault.Errorf(fault.Invalid, "the check of machine %s asks nothing", m.name)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return command.CheckResult{Detail: logkit.Clean(err.Error())}, nil //nolint:nilerr // a bad answer is an answer
	}
	return command.CheckResult{OK: true, Detail: logkit.Clean(detail)}, nil
}

// resolve replaces the host part of host:port: an empty one is the machine, the
// name of a machine its address in this run.
func resolve(in command.CheckRequest, hostport string) (string, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", err
	}
	switch addr, known := in.Addresses[host]; {
	case known:
		host = addr
	case host == "":
		host = in.Self
	}
	if host == "" {
		host = localAddress
	}
	return net.JoinHostPort(host, port), nil
}

func checkTCP(ctx context.Context, in command.CheckRequest) (string, error) {
	addr, err := resolve(in, in.Check.TCP)
	if err != nil {
		return "", err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	return "connected to " + addr, c.Close()
}

func checkHTTP(ctx context.Context, in command.CheckRequest) (string, error) {
	target, err := checkURL(in)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return "", err
	}
	c := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	switch {
	case in.Check.Expect != 0 && res.StatusCode != in.Check.Expect:
		return "", fmt.Errorf("%s answers %s, want %d", target, res.Status, in.Check.Expect)
	case in.Check.Expect == 0 && res.StatusCode/100 != 2:
		return "", fmt.Errorf("%s answers %s", target, res.Status)
	case in.Check.Contains != "" && !strings.Contains(string(body), in.Check.Contains):
		return "", fmt.Errorf("%s does not contain %q", target, in.Check.Contains)
	case err != nil:
		return "", err
	}
	return target + " answers " + res.Status, nil
}

// checkURL is the URL to ask: "http://host/path" or ":8080/path".
func checkURL(in command.CheckRequest) (string, error) {
	raw := in.Check.HTTP
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("scheme %q is not http or https", u.Scheme)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if u.Host, err = resolve(in, net.JoinHostPort(u.Hostname(), port)); err != nil {
		return "", err
	}
	return u.String(), nil
}

// checkExec runs a program: the machine's own ready check, or one the estate
// allows.
func (m *machine) checkExec(ctx context.Context, in command.CheckRequest) (command.CheckResult, error) {
	as := m.assignment()
	if as.Ready == nil || !slices.Equal(as.Ready.Exec, in.Check.Exec) {
		if err := allowed(as.Allow[m.a.host()], in.Check.Exec[0], m.a.host()); err != nil {
			return command.CheckResult{}, err
		}
	}
	res, err := m.a.runProgram(ctx, in.Check.Exec, map[string]string{"DRRUN_MACHINE": m.name, "DRRUN_IP": in.Self, "DRRUN_SITE": m.a.site()})
	if err != nil {
		if ctx.Err() != nil {
			return command.CheckResult{Detail: context.Cause(ctx).Error()}, nil
		}
		return command.CheckResult{}, err
	}
	detail := fmt.Sprintf("exit status %d", res.Exit)
	if tail := strings.TrimSpace(res.Output); tail != "" {
		detail += ": " + lastLine(tail)
	}
	return command.CheckResult{OK: res.Exit == 0, Detail: logkit.Clean(detail)}, nil
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }
