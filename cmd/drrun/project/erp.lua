-- Recovery plan of the ERP service. Order on the page is order of events.
--   drrun check erp.lua                what can be known without running it
--   drrun explain erp.lua --planned    the steps of a run
--   drrun test                         the tests beside it, in a simulated world
local dns = require "drrun.dns"
local key = secret "dns-key"

return plan "erp" {
  from = "paris",
  to = "lyon",
  rto = "15m",
  rpo = "1m",
  drill = { cron = "0 3 * * SUN", tz = "Europe/Paris" }, -- a test failover each Sunday, cleaned up afterwards

  shutdown = {
    before = exec "drain the balancer" {
      on = "lb1",
      cmd = "systemctl reload haproxy",
      only = "planned",
      rollback = "again",
    },
    force_after = "2m",
  },

  group "databases" {
    machine "db1",
    after = check "postgres answers" { tcp = "db1:5432", within = "5m" },
  },

  group "application" {
    parallel = 2,
    machines { tag = "erp-app" },
    after = check "health" { http = "http://app1:8080/health", expect = 200, within = "3m" },
  },

  wait "business go/no-go" {
    ask = "Finance confirms that the ledger is consistent",
    role = "approver",
    within = "2h",
    on_timeout = "stop",
    skip = "test",
  },

  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
      action "point DNS at the active site" {
        skip = "test",
        rollback = "again", -- after a rollback the name points at the old site again
        within = "1m",
        function(run)
          dns.update {
            server = "10.0.0.53",
            name = "erp.example.com.",
            a = run:machine("lb1").ip,
            ttl = "60s",
            key = key,
          }
        end,
      },
    },
  },
}
