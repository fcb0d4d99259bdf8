// Package dns is the Lua module drrun.dns: what names say, and dynamic updates
// (RFC 2136) signed by TSIG (RFC 8945). It is the only door to the DNS library.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
	lua "github.com/yuin/gopher-lua"

	"github.com/drrun/drrun/internal/fault"
	"github.com/drrun/drrun/internal/quantity"
	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts/hostcall"
	"github.com/drrun/drrun/scripts/sandbox"
)

// Limits of one operation.
const (
	maxValues  = 64
	defaultTTL = time.Minute
	fudge      = 300 // seconds that the clocks of two hosts may differ (RFC 8945, 10)
)

// types are the record types that values can be of.
var types = map[string]uint16{"A": mdns.TypeA, "AAAA": mdns.TypeAAAA, "CNAME": mdns.TypeCNAME, "TXT": mdns.TypeTXT}

// Open returns the functions of the module.
func Open(e *hostcall.Env) map[string]lua.LGFunction {
	return map[string]lua.LGFunction{
		"lookup": func(L *lua.LState) int { return lookup(e, L) },
		"update": func(L *lua.LState) int { return update(e, L) },
	}
}

// text reads a string of an options table; empty when it is not there.
func text(L *lua.LState, what string, o *lua.LTable, key string) string {
	switch v := o.RawGetString(key).(type) {
	case *lua.LNilType:
		return ""
	case lua.LString:
		return string(v)
	default:
		L.RaiseError("%s: %s is a %s, want a string", what, key, v.Type())
	}
	return ""
}

// server completes host or host:port.
func server(e *hostcall.Env, s string) string {
	if _, _, err := net.SplitHostPort(s); err != nil {
		s = net.JoinHostPort(strings.Trim(s, "[]"), "53")
	}
	return e.Address(s)
}

func lookup(e *hostcall.Env, L *lua.LState) int {
	name, o := L.CheckString(1), L.OptTable(2, L.NewTable())
	hostcall.Options(L, "dns.lookup", o)
	kind := strings.ToUpper(text(L, "dns.lookup", o, "type"))
	if _, ok := types[kind]; kind != "" && !ok {
		L.RaiseError("dns.lookup: type %q is not A, AAAA, CNAME or TXT", kind)
	}
	if _, ok := mdns.IsDomainName(name); !ok {
		L.RaiseError("dns.lookup: %q is no name", name)
	}
	at := text(L, "dns.lookup", o, "server")
	within := hostcall.Within(L, o.RawGetString("within"), hostcall.DefaultWithin)
	var got []string
	e.Op(L, "dns.lookup", plans.OpRead, map[string]any{"name": name, "type": kind, "server": at, "within": within.String()}, &got,
		func(ctx context.Context, _ string) (any, error) {
			asking, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			if at == "" {
				return resolve(asking, name, kind)
			}
			return ask(asking, server(e, at), name, kind)
		})
	out := L.CreateTable(len(got), 0)
	for _, v := range got {
		out.Append(lua.LString(v))
	}
	L.Push(out)
	return 1
}

// resolve asks as programs of the controller do.
func resolve(ctx context.Context, name, kind string) ([]string, error) {
	r := net.DefaultResolver
	var out []string
	var err error
	switch kind {
	case "TXT":
		out, err = r.LookupTXT(ctx, name)
	case "CNAME":
		var c string
		if c, err = r.LookupCNAME(ctx, name); err == nil {
			out = []string{c}
		}
	default:
		network := map[string]string{"": "ip", "A": "ip4", "AAAA": "ip6"}[kind]
		var ips []net.IP
		ips, err = r.LookupIP(ctx, network, name)
		for _, ip := range ips {
			out = append(out, ip.String())
		}
	}
	var de *net.DNSError
	if errors.As(err, &de) && de.IsNotFound {
		return []string{}, nil
	}
	slices.Sort(out)
	return out, err
}

// ask asks one server.
func ask(ctx context.Context, at, name, kind string) ([]string, error) {
	kinds := []string{kind}
	if kind == "" {
		kinds = []string{"A", "AAAA"}
	}
	out := []string{}
	for _, k := range kinds {
		m := new(mdns.Msg)
		m.SetQuestion(mdns.Fqdn(name), types[k])
		in, err := exchange(ctx, at, m, nil)
		if err != nil {
			return nil, err
		}
		if in.Rcode == mdns.RcodeNameError {
			continue
		}
		if in.Rcode != mdns.RcodeSuccess {
			return nil, fmt.Errorf("server %s answers %s for %s %s", at, mdns.RcodeToString[in.Rcode], name, k)
		}
		for _, rr := range in.Answer {
			if rr.Header().Rrtype == types[k] {
				out = append(out, value(rr))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func value(rr mdns.RR) string {
	switch rr := rr.(type) {
	case *mdns.A:
		return rr.A.String()
	case *mdns.AAAA:
		return rr.AAAA.String()
	case *mdns.CNAME:
		return rr.Target
	case *mdns.TXT:
		return strings.Join(rr.Txt, "")
	}
	return rr.String()
}

// exchange sends one message, by TCP when the answer does not fit a datagram or
// when it is signed.
func exchange(ctx context.Context, at string, m *mdns.Msg, k *tsigKey) (*mdns.Msg, error) {
	c := &mdns.Client{Net: "udp"}
	if k != nil {
		c.Net, c.TsigSecret = "tcp", map[string]string{k.name: k.secret}
		m.SetTsig(k.name, k.algorithm, fudge, time.Now().Unix())
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.Timeout = time.Until(deadline)
	}
	in, _, err := c.ExchangeContext(ctx, m, at)
	if err == nil && in.Truncated {
		c.Net = "tcp"
		in, _, err = c.ExchangeContext(ctx, m, at)
	}
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", at, err)
	}
	return in, nil
}

// tsigKey is a key as nsupdate -y takes it.
type tsigKey struct{ name, algorithm, secret string }

var algorithms = map[string]string{"hmac-sha1": mdns.HmacSHA1, "hmac-sha224": mdns.HmacSHA224, "hmac-sha256": mdns.HmacSHA256, "hmac-sha384": mdns.HmacSHA384, "hmac-sha512": mdns.HmacSHA512}

// parseKey reads [ALGORITHM:]NAME:BASE64. Its errors never hold the key.
func parseKey(s string) (*tsigKey, error) {
	parts := strings.Split(strings.TrimSpace(s), ":")
	if len(parts) == 2 {
		parts = append([]string{"hmac-sha256"}, parts...)
	}
	if len(parts) != 3 {
		return nil, errors.New("the key is not ALGORITHM:NAME:BASE64, as nsupdate -y takes it")
	}
	alg, ok := algorithms[strings.ToLower(parts[0])]
	if !ok {
		return nil, errors.New("the algorithm of the key is not one of hmac-sha1, hmac-sha224, hmac-sha256, hmac-sha384, hmac-sha512")
	}
	if _, valid := mdns.IsDomainName(parts[1]); !valid {
		return nil, errors.New("the name of the key is no name")
	}
	return &tsigKey{name: mdns.CanonicalName(parts[1]), algorithm: alg, secret: parts[2]}, nil
}

// change is an update as the script gave it: what a resumed run is compared
// with, and what is journaled. The key is not in it.
type change struct {
	Server string              `json:"server"`
	Zone   string              `json:"zone,omitempty"`
	Name   string              `json:"name"`
	Values map[string][]string `json:"values"` // by type; none: the type is removed
	TTL    string              `json:"ttl"`
	Key    string              `json:"key,omitempty"` // shown
	Within string              `json:"within"`
}

func update(e *hostcall.Env, L *lua.LState) int {
	o := L.CheckTable(1)
	hostcall.Options(L, "dns.update", o)
	c := change{Server: text(L, "dns.update", o, "server"), Zone: text(L, "dns.update", o, "zone"), Name: text(L, "dns.update", o, "name"), Values: map[string][]string{}}
	if c.Server == "" || c.Name == "" {
		L.RaiseError("dns.update: server and name are needed")
	}
	for _, kind := range []string{"A", "AAAA", "CNAME", "TXT"} {
		v := o.RawGetString(strings.ToLower(kind))
		if v == lua.LNil {
			continue
		}
		values, err := read(kind, v)
		if err != nil {
			L.RaiseError("dns.update: %s: %v", strings.ToLower(kind), err)
		}
		c.Values[kind] = values
	}
	if len(c.Values) == 0 {
		L.RaiseError("dns.update: say what the name is to be: a, aaaa, cname or txt")
	}
	if _, ok := mdns.IsDomainName(c.Name); !ok {
		L.RaiseError("dns.update: %q is no name", c.Name)
	}
	ttl := hostcall.Within(L, o.RawGetString("ttl"), defaultTTL)
	within := hostcall.Within(L, o.RawGetString("within"), hostcall.DefaultWithin)
	if ttl < time.Second || ttl > 7*24*time.Hour {
		L.RaiseError("dns.update: a ttl is from 1s to 7d, not %s", quantity.FormatDuration(ttl))
	}
	key := o.RawGetString("key")
	if key != lua.LNil && !hostcall.IsText(key) {
		L.RaiseError("dns.update: key is a %s, want secret \"name\"", key.Type())
	}
	if c.TTL, c.Within = ttl.String(), within.String(); key != lua.LNil {
		c.Key = hostcall.Hidden
		if s, ok := hostcall.AsSecret(key); ok {
			c.Key = s.String()
		}
	}
	// The same update done twice leaves the same records.
	e.Op(L, "dns.update", plans.OpIdempotent, c, nil, func(ctx context.Context, _ string) (any, error) {
		doing, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		var k *tsigKey
		if key != lua.LNil {
			opened, err := e.Open(doing, key)
			if err != nil {
				return nil, err
			}
			if k, err = parseKey(opened); err != nil {
				return nil, err
			}
		}
		return true, c.send(doing, server(e, c.Server), ttl, k)
	})
	return 0
}

// read reads the values of a type; false removes it.
func read(kind string, v lua.LValue) ([]string, error) {
	if v == lua.LFalse {
		return nil, nil
	}
	var all []string
	switch v := v.(type) {
	case lua.LString:
		all = []string{string(v)}
	case *lua.LTable:
		var bad error
		sandbox.ForEach(v, func(_, item lua.LValue) {
			s, ok := item.(lua.LString)
			if !ok {
				bad = fmt.Errorf("a list of strings has a %s", item.Type())
			}
			all = append(all, string(s))
		})
		if bad != nil {
			return nil, bad
		}
		slices.Sort(all) // a table has no order that a resumed run could rely on
	default:
		return nil, fmt.Errorf("want a string, a list of them, or false, got a %s", v.Type())
	}
	if len(all) == 0 || len(all) > maxValues || kind == "CNAME" && len(all) != 1 {
		return nil, fmt.Errorf("%d values: false removes the records", len(all))
	}
	for _, s := range all {
		if err := checkValue(kind, s); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func checkValue(kind, s string) error {
	ip := net.ParseIP(s)
	switch {
	case kind == "A" && ip.To4() == nil, kind == "AAAA" && (ip == nil || ip.To4() != nil):
		return fmt.Errorf("%q is no address of this type", s)
	case kind == "CNAME":
		if _, ok := mdns.IsDomainName(s); !ok || s == "" {
			return fmt.Errorf("%q is no name", s)
		}
	case kind == "TXT" && len(s) > 1024:
		return fmt.Errorf("a text of %d bytes, the limit is 1024", len(s))
	}
	return nil
}

// send makes the update one message: what it removes and what it adds come into
// force at once.
func (c *change) send(ctx context.Context, at string, ttl time.Duration, k *tsigKey) error {
	name := mdns.Fqdn(c.Name)
	zone := c.Zone
	if zone == "" {
		var err error
		if zone, err = zoneOf(ctx, at, name); err != nil {
			return err
		}
	}
	m := new(mdns.Msg)
	m.SetUpdate(mdns.Fqdn(zone))
	for _, kind := range []string{"A", "AAAA", "CNAME", "TXT"} {
		values, said := c.Values[kind]
		if !said {
			continue
		}
		h := mdns.RR_Header{Name: name, Rrtype: types[kind], Class: mdns.ClassINET}
		m.RemoveRRset([]mdns.RR{&mdns.ANY{Hdr: h}})
		h.Ttl = uint32(ttl / time.Second) //nolint:gosec // at most seven days
		for _, v := range values {
			m.Insert([]mdns.RR{record(h, v)})
		}
	}
	in, err := exchange(ctx, at, m, k)
	if err != nil {
		if k != nil && errors.Is(err, mdns.ErrKey) {
			return fault.Errorf(fault.Failed, "server %s: the key is refused", at)
		}
		return err
	}
	if in.Rcode != mdns.RcodeSuccess {
		return fmt.Errorf("server %s refuses the update of %s in zone %s: %s", at, name, zone, mdns.RcodeToString[in.Rcode])
	}
	return nil
}

func record(h mdns.RR_Header, v string) mdns.RR {
	switch h.Rrtype {
	case mdns.TypeA:
		return &mdns.A{Hdr: h, A: net.ParseIP(v)}
	case mdns.TypeAAAA:
		return &mdns.AAAA{Hdr: h, AAAA: net.ParseIP(v)}
	case mdns.TypeCNAME:
		return &mdns.CNAME{Hdr: h, Target: mdns.Fqdn(v)}
	}
	var parts []string
	for len(v) > 255 {
		parts, v = append(parts, v[:255]), v[255:]
	}
	return &mdns.TXT{Hdr: h, Txt: append(parts, v)}
}

// zoneOf asks which zone holds a name (RFC 2136, 4.3: its SOA record).
func zoneOf(ctx context.Context, at, name string) (string, error) {
	for n := name; n != ""; {
		m := new(mdns.Msg)
		m.SetQuestion(n, mdns.TypeSOA)
		in, err := exchange(ctx, at, m, nil)
		if err != nil {
			return "", err
		}
		for _, rr := range slices.Concat(in.Answer, in.Ns) {
			if soa, ok := rr.(*mdns.SOA); ok && mdns.IsSubDomain(soa.Hdr.Name, name) {
				return soa.Hdr.Name, nil
			}
		}
		_, rest, more := strings.Cut(n, ".")
		if !more || rest == "" {
			break
		}
		n = rest
	}
	return "", fmt.Errorf("server %s knows no zone of %s: say zone", at, name)
}
