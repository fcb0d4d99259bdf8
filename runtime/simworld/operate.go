package simworld

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/plans"
)

// Operation is a host call of a plan's function.
type Operation struct {
	Name  string
	Class plans.OpClass
	Args  json.RawMessage
	Key   string // RUN/STEP/NUMBER/OPERATION; of a check RUN/STEP/NUMBER/ask-N/OPERATION
}

// Operate does a host call of a plan's function. An error of kind
// fault.Unknown means that nobody knows whether it was done; another one is for
// the function. known is false for operations that the world has no answer for.
func (w *World) Operate(ctx context.Context, o Operation) (value any, known bool, err error) {
	c := &call{verb: o.Name, text: string(o.Args)}
	c.run, _, _ = strings.Cut(o.Key, "/")
	ask := strings.Contains(o.Key, "/ask-")
	w.mu.Lock()
	c.step = w.stepOf(o.Key)
	w.mu.Unlock()
	var do func() (any, error)
	switch {
	case strings.HasPrefix(o.Name, "http."):
		do = func() (any, error) { return w.request(c, o, ask) }
	case o.Name == "tcp.connect":
		do = func() (any, error) { return w.connect(c, o, ask) }
	case o.Name == "ssh.run":
		do = func() (any, error) { return w.remote(c, o) }
	case o.Name == "dns.lookup":
		do = func() (any, error) { return w.lookup(o) }
	case o.Name == "dns.update":
		do = func() (any, error) { return true, w.update(c, o) }
	default:
		return nil, false, nil
	}
	w.mu.Lock()
	t := w.trouble(c)
	w.mu.Unlock()
	takes := 20*time.Millisecond + t.delay
	if t.hang {
		takes = forever
	}
	var limit struct {
		Within string `json:"within"`
	}
	_ = json.Unmarshal(o.Args, &limit) // none: 30 s, as the modules say
	within, err := time.ParseDuration(limit.Within)
	if err != nil {
		within = 30 * time.Second
	}
	if err := pass(ctx, min(takes, within)); err != nil {
		return nil, true, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if takes > within {
		return nil, true, fmt.Errorf("no answer within %s", within)
	}
	if t.err != nil {
		return nil, true, t.err
	}
	value, err = do()
	if err == nil && t.lost {
		return nil, true, fault.Errorf(fault.Failed, "the answer was lost")
	}
	return value, true, err
}

type httpArgs struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
	JSON    any               `json:"json"`
}

func (w *World) request(c *call, o Operation, ask bool) (any, error) {
	var a httpArgs
	if err := json.Unmarshal(o.Args, &a); err != nil {
		return nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		return nil, err
	}
	status, body, note := 200, "ok", "the simulated world answers 200 unless w:serve { http = …, status = … } says otherwise"
	s := w.server("http", a.URL)
	if s != nil {
		note = ""
		if s.Down {
			return nil, fmt.Errorf("%s: connection timed out", u.Host)
		}
		status, body = s.Status, s.Body
	}
	i, inside, why := w.reach(u.Hostname())
	if inside && i == nil {
		return nil, fmt.Errorf("%s: %s", u.Host, why)
	}
	if i != nil && ask {
		w.rightAsked(i, c, a.URL)
	}
	if o.Class != plans.OpRead {
		key := o.Key
		for k, v := range a.Headers {
			if strings.EqualFold(k, "Idempotency-Key") {
				key = v
			}
		}
		w.effect(c, o.Class, o.Name, key, fmt.Sprintf("%s %s", o.Name, a.URL), status < 400)
	}
	return map[string]any{"status": status, "body": body, "headers": map[string]string{}, "note": note}, nil
}

func (w *World) connect(c *call, o Operation, ask bool) (any, error) {
	var a struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(o.Args, &a); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		host = a.Address
	}
	if s := w.server("tcp", a.Address); s != nil && s.Down {
		return map[string]any{"ok": false, "why": "connection timed out"}, nil
	}
	i, inside, why := w.reach(host)
	if inside && i == nil {
		return map[string]any{"ok": false, "why": why}, nil
	}
	if i != nil && ask {
		w.rightAsked(i, c, a.Address)
	}
	return map[string]any{"ok": true}, nil
}

type dnsArgs struct {
	Name   string              `json:"name"`
	Type   string              `json:"type"`
	Server string              `json:"server"`
	Values map[string][]string `json:"values"`
}

func (w *World) lookup(o Operation) (any, error) {
	var a dnsArgs
	if err := json.Unmarshal(o.Args, &a); err != nil {
		return nil, err
	}
	if s := w.server("dns", a.Name); s != nil {
		if s.Down {
			return nil, fmt.Errorf("%s: no answer", a.Name)
		}
		return slices.Sorted(slices.Values(s.Values)), nil
	}
	kinds := []string{a.Type}
	if a.Type == "" {
		kinds = []string{"A", "AAAA"}
	}
	out := []string{}
	for _, k := range kinds {
		rec := w.names[nameKey(a.Name, k)]
		out = append(out, rec.seen()...)
	}
	slices.Sort(out)
	return out, nil
}

// seen is what lookups get: changes take a while to arrive everywhere.
func (r *nameRecord) seen() []string {
	if time.Now().Before(r.since) {
		return r.old
	}
	return r.values
}

func nameKey(name, kind string) string {
	return strings.ToLower(strings.TrimSuffix(name, ".")) + " " + kind
}

func (w *World) update(c *call, o Operation) error {
	var a dnsArgs
	if err := json.Unmarshal(o.Args, &a); err != nil {
		return err
	}
	if s := w.server("dns", a.Server); s != nil && s.Down {
		return fmt.Errorf("server %s: no answer", a.Server)
	}
	for _, kind := range slices.Sorted(maps.Keys(a.Values)) {
		values := a.Values[kind]
		if slices.Equal(w.names[nameKey(a.Name, kind)].values, values) { // done twice it is the same
			continue
		}
		old := w.names[nameKey(a.Name, kind)]
		w.names[nameKey(a.Name, kind)] = nameRecord{values: values, old: old.seen(), since: time.Now().Add(w.propagation), run: c.run, step: c.step}
		w.effect(c, o.Class, o.Name, "", fmt.Sprintf("dns.update %s %s %s", a.Name, kind, strings.Join(values, " ")), true)
	}
	return nil
}

// Name returns the values of a DNS name as the plan has set them; of A and AAAA
// for an empty type.
func (w *World) Name(name, kind string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if kind != "" {
		return slices.Clone(w.names[nameKey(name, strings.ToUpper(kind))].values)
	}
	return slices.Concat(w.names[nameKey(name, "A")].values, w.names[nameKey(name, "AAAA")].values)
}

// declared is the key in a context of the operation that runs a program.
type declared struct{}

// Declare tells the world the class of an operation that an agent does, or the
// controller: its program runs with the context that Declare returns.
func (w *World) Declare(ctx context.Context, key string, class plans.OpClass) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.classes[key] = class
	return context.WithValue(ctx, declared{}, key)
}

// classOf is the class of an operation; of one that nobody has declared nothing
// is known.
func (w *World) classOf(key string) plans.OpClass {
	if class, ok := w.classes[key]; ok {
		return class
	}
	return plans.OpUnsafe
}

// remote runs a command by ssh.
func (w *World) remote(c *call, o Operation) (any, error) {
	var a struct {
		Host string   `json:"host"`
		Cmd  []string `json:"cmd"`
		Sh   string   `json:"sh"`
	}
	if err := json.Unmarshal(o.Args, &a); err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(a.Host)
	if err != nil {
		host = a.Host
	}
	if i, inside, why := w.reach(host); inside && i == nil {
		return nil, fmt.Errorf("%s: %s", a.Host, why)
	}
	line := strings.Join(a.Cmd, " ")
	if a.Sh != "" {
		line = a.Sh
	}
	res := map[string]any{"exit": 0, "output": ""}
	exit := 0
	if s := w.server("exec", line); s != nil {
		exit = s.Exit
		res = map[string]any{"exit": s.Exit, "output": s.Output}
	}
	c.text = line
	if t := w.programTrouble(c); t != nil {
		exit = 1
		res = map[string]any{"exit": 1, "output": t.Error()}
	}
	w.effect(c, o.Class, "exec", o.Key, "ssh "+a.Host+" "+line, exit == 0)
	return res, nil
}
