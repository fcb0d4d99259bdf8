package scripts_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drrun/drrun/plans"
	"github.com/drrun/drrun/scripts"
)

// loader has limits that hold on a slow machine under the race detector too.
func loader() *scripts.Loader { return scripts.New(scripts.Options{PlanTime: 30 * time.Second}) }

func one(name, src string) plans.Bundle {
	return plans.Bundle{Main: name, Files: map[string]string{name: src}}
}

func page(t *testing.T, name string) plans.Bundle {
	t.Helper()
	b, err := scripts.ReadBundle(func(name string) ([]byte, error) {
		return os.ReadFile(filepath.Join("testdata", "pages", name))
	}, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExamplePages(t *testing.T) {
	t.Parallel()
	e, err := loader().LoadEstate(page(t, "estate.lua"))
	if err != nil {
		t.Fatalf("estate:\n%v", err)
	}
	p, err := loader().LoadPlan(page(t, "erp.lua"), nil)
	if err != nil {
		t.Fatalf("plan:\n%v", err)
	}
	if err := plans.Check(p, e); err != nil {
		t.Fatalf("check:\n%v", err)
	}
	var names []string
	for _, g := range p.Resolve(e) {
		names = append(names, g.Group.Name+": "+strings.Join(g.Names(), " "))
	}
	if got, want := strings.Join(names, "; "), "databases: db1; application: app1 app2; edge: lb1"; got != want {
		t.Errorf("groups %q, want %q", got, want)
	}
}
