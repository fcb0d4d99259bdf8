-- erp.lua: recovery plan of the ERP service. Order on the page is order of events.
local lab = require "lab"

return plan "erp" {
  from = "paris", to = "lyon", rto = "15m", rpo = "10s",

  shutdown = {
    force_after = "20s",
  },

  group "databases" {
    machine "db1",
    after = check "ledger answers" { http = "http://db1:" .. lab.port .. "/health", expect = 200, every = "100ms", within = "1m" },
  },

  wait "business go/no-go" {
    ask = "Finance confirms that the ledger is consistent",
    role = "approver", within = "2h", on_timeout = "stop", skip = "test",
  },

  group "application" {
    machines { tag = "erp-app" },
    after = {
      check "health of app1" { http = "http://app1:" .. lab.port .. "/health", every = "100ms", within = "1m" },
      action "note where the service is" {
        only = "any",
        function(run)
          run:note("the ERP service runs at " .. run:machine("app1").site .. ", address " .. run:machine("app1").ip)
        end,
      },
    },
  },
}
