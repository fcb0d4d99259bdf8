-- lab.lua: where the example lives. The demo writes its own one beside its copy
-- of the plan; this one is for drrun check, drrun test and drrun explore.
return {
  root = "/srv/erp", ledger = "/usr/local/bin/ledger", port = "7900", every = "2s",
  paris_agent = "10.10.0.5:7830", lyon_agent = "10.20.0.5:7830",
  paris_lan = "10.10.0.0/24", lyon_lan = "10.20.0.0/24", bubble = "10.99.0.0/24",
}
