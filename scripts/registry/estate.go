package registry

func policyFields() []Field {
	return []Field{
		{Name: "every", Type: Duration, Default: "5m", Doc: "Time between two recovery points."},
		{Name: "app_every", Type: Duration, Doc: "Time between two application-consistent points."},
		{Name: "rpo", Type: Duration, Doc: "Alarm when the newest point is older."},
		{Name: "keep", Type: Keep, Default: `{ "all for 24h" }`, Doc: `Lines of a retention: "all for 1h", "5m for 1d", "last 24" (points, however old).`},
		{Name: "rate", Type: Rate, Doc: "Most that goes over the wire."},
		{Name: "windows", Type: Strings, Later: "agents send at any time of day (rate limits how much)", Doc: `Times of day in which it sends: "22:00-06:00".`},
		{Name: "codec", Type: Word, Words: []string{"auto", "raw", "s2", "zstd"}, Default: `"auto"`, Doc: "Compression on the wire."},
		{Name: "initial", Type: String, Default: `"now"`, Later: "a first copy goes over the network", LaterWords: []string{"import"}, Doc: `The first copy: "now", "22:00", "import" or "existing".`},
		{Name: "consistency", Type: Word, Words: []string{"crash", "app", "fuzzy"}, Default: `"crash"`, Later: "choose app points by point = \"latest-app\"", LaterWords: []string{"app"}, Doc: "The least that a point must be."},
		{Name: "fence", Type: Word, Words: []string{"stop", "alarm"}, Default: `"stop"`, Doc: "What a host does with a machine that runs elsewhere now."},
		{Name: "lease", Type: Duration, Doc: "The source stops its machine when the target did not answer for so long; an unplanned run waits for that instead of asking. 10s or more."},
		{Name: "start_alone", Type: Word, Words: []string{"ask", "never", "allow"}, Default: `"ask"`, Doc: "May a host start a machine that no peer confirms."},
	}
}

func providerFields() []Field {
	return []Field{
		{Name: "start", Type: Command, Doc: "Program that is the machine; stays in the foreground. Placeholders, in the other programs too: {disk.NAME} (its path), {ip}, {machine}, {site}, {epoch}."},
		{Name: "stop", Type: Command, Default: "SIGTERM", Doc: "Program that stops it."},
		{Name: "force_after", Type: Duration, Default: "30s", Doc: "It is killed after this."},
		{Name: "status", Type: Command, Doc: "Program that ends with 0 while it runs."},
		{Name: "freeze", Type: Command, Default: "SIGSTOP", Doc: "Program that makes it hold still; makes app points."},
		{Name: "thaw", Type: Command, Default: "SIGCONT", Doc: "Program that lets it go on."},
		{Name: "freeze_max", Type: Duration, Default: "10s", Doc: "The agent thaws it by itself after this."},
		{Name: "unit", Type: String, Doc: "Unit of the service manager, instead of start."},
	}
}

func machineFields() []Field {
	return []Field{
		{Name: "host", Type: String, Doc: "Its home."},
		{Name: "tags", Type: Strings, Doc: "Words that plans select it by."},
		{Name: "ip", Type: Address, Doc: `By network: the host part, the same at every site, ip = { lan = 11 }; or addresses by site, ip = { lan = { paris = "10.10.0.11", lyon = { "10.20.0.11", "10.20.0.12" } } }.`},
		{Name: "policy", Type: String, Doc: "Its policy; default: its cloud's."},
		{Name: "replica", Type: String, Doc: "Host of its replica; default: the one with most free space."},
		{Name: "protected", Type: Bool, Default: "true", Doc: "Whether it is replicated."},
		{Name: "consistent", Type: String, Later: "every machine has points of its own", Doc: "Consistency group."},
		{Name: "ready", Type: Record, Doc: "When it is ready.",
			Fields: append(checkFields(), Field{Name: "within", Type: Duration, Default: "5m", Doc: "Time it may take."})},
		{Name: "exec", Type: Record, Fields: providerFields(), Doc: "It is a process."},
		{Name: "qemu", Type: Elsewhere, Doc: "It is a QEMU machine."},
		{Name: "libvirt", Type: Elsewhere, Doc: "It is a libvirt domain."},
		{Name: "vsphere", Type: Elsewhere, Doc: "It is a vSphere machine."},
	}
}

func estateConstructors() []Constructor {
	cs := []Constructor{
		{Name: "estate", Body: Needed, Items: []string{"policy", "site", "machine", "secret"}, Doc: "What exists, where it runs, how it is protected. The file returns it.", Fields: []Field{
			{Name: "allow", Type: Strings, Doc: "Programs that plans may run on the controller; none by default."},
		}},
		{Name: "policy", Body: Needed, Fields: policyFields(), Doc: "How machines are protected."},
		{Name: "site", Body: Needed, Items: []string{"network", "cloud"}, Doc: "A place that can be lost as a whole."},
		{Name: "network", Body: Needed, Doc: "A network of a site; the same name at two sites is mapped.", Fields: []Field{
			{Name: "cidr", Type: String, Doc: "Its addresses."},
			{Name: "bridge", Type: String, Doc: "Bridge of the hosts."},
			{Name: "libvirt", Type: String, Doc: "Network of libvirt."},
			{Name: "portgroup", Type: String, Doc: "Port group of vSphere."},
			{Name: "isolated", Type: Bool, Doc: "Tests use it."},
		}},
		{Name: "cloud", Body: Needed, Items: []string{"host"}, Doc: "Hosts of a site.", Fields: []Field{
			{Name: "policy", Type: String, Doc: "Policy of the machines that live on it."},
			{Name: "to", Type: String, Doc: "Cloud that holds their replicas."},
		}},
		{Name: "host", Body: Needed, Doc: "Runs an agent.", Fields: []Field{
			{Name: "addr", Type: String, Doc: "Where its agent listens; the port is 7830 unless it says another."},
			{Name: "store", Type: String, Doc: "Folder of replicas; makes it a target."},
			{Name: "relay", Type: Bool, Later: "sources send to the target itself", Doc: "It relays."},
			{Name: "allow", Type: Strings, Doc: "Programs that plans may run there; none by default."},
		}},
		{Name: "machine", Body: Needed, Items: []string{"disk"}, Fields: machineFields(), Doc: "Something to protect."},
		{Name: "disk", Body: Needed, Doc: "A disk of a machine.", Fields: []Field{
			{Name: "file", Type: String, Doc: "Its file at home."},
			{Name: "device", Type: String, Doc: "Its device at home."},
			{Name: "at", Type: Map, Doc: "Its path by site."},
			{Name: "allocation", Type: Word, Words: []string{"sparse", "full"}, Doc: "Whether holes are kept as holes."},
			{Name: "exclude", Type: Strings, Later: "disks are replicated whole", Doc: "What is not replicated."},
		}},
		{Name: "secret", Body: Needed, Doc: "A value that functions may open and nothing prints.", Fields: []Field{
			{Name: "file", Type: String, Doc: "File that holds it."},
			{Name: "env", Type: String, Doc: "Environment variable that holds it."},
			{Name: "exec", Type: Command, Doc: "Program that prints it."},
		}},
	}
	for i := range cs {
		cs[i].Scope = EstateFile
	}
	return cs
}
