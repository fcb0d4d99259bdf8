package plans_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/drrun/drrun/plans"
)

// TestIndexThatIsStale: an estate that was changed after its index was made finds
// what it has now.
func TestIndexThatIsStale(t *testing.T) {
	t.Parallel()
	e := &plans.Estate{Sites: []plans.Site{{Name: "a", Clouds: []plans.Cloud{{Name: "c", Hosts: []plans.Host{{Name: "h1"}, {Name: "h2"}}}}}},
		Machines: []plans.Machine{{Name: "m1"}, {Name: "m2"}, {Name: "m1", Host: "twice"}}}
	e.Index()
	find := func(machine, host string) string {
		m, ok := e.Machine(machine)
		site, known := e.HostSite(host)
		h, _ := e.Host(host)
		if ok && m.Name != machine || known && h.Name != host {
			t.Errorf("%s and %s found as %+v and %+v", machine, host, m, h)
		}
		return map[bool]string{true: "m", false: "-"}[ok] + map[bool]string{true: site, false: "-"}[known]
	}
	if got := find("m2", "h2") + find("m9", "h9"); got != "ma--" {
		t.Errorf("found %s", got)
	}
	if m, _ := e.Machine("m1"); m.Host != "" {
		t.Error("of two with one name the second was found")
	}
	e.Machines = e.Machines[1:]
	e.Sites[0].Clouds[0].Hosts = append([]plans.Host{{Name: "h0"}}, e.Sites[0].Clouds[0].Hosts[1:]...)
	if got := find("m2", "h2") + find("m1", "h1") + find("m9", "h0"); got != "mam--a" {
		t.Errorf("after the change found %s", got)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back plans.Estate
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	e.Index()
	if !reflect.DeepEqual(*e, back) {
		t.Errorf("read back %+v", back)
	}
}
