-- erp.lua: recovery plan of the ERP service
local dns = require "drrun.dns"
local http = require "drrun.http"
local key = secret "dns-key"

return plan "erp" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",
  drill = { cron = "0 3 * * SUN", tz = "Europe/Paris" },

  shutdown = {
    before = exec "drain the pooler" { on = "lb1", cmd = "systemctl stop pgbouncer", only = "planned" },
    force_after = "2m",
  },

  group "databases" {
    machine "db1",
    after = check "postgres answers" { tcp = "db1:5432", within = "5m" },
  },

  group "application" {
    machines { tag = "erp-app" },
    after = check "health" { http = "http://app1:8080/health", expect = 200, within = "3m" },
  },

  wait "business go/no-go" {
    ask = "Finance confirms that the ledger is consistent",
    role = "approver", within = "2h", on_timeout = "stop", skip = "test",
  },

  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
      action "point DNS at the active site" {
        skip = "test", within = "1m", rollback = "again",
        function(run)
          dns.update { server = "10.0.0.53", name = "erp.example.com.", a = run:machine("lb1").ip, ttl = "60s", key = key }
        end,
      },
      action "tell the customers" {
        skip = "test", within = "1m", rollback = "again",
        function(run)
          http.post("https://status.example.com/api", {
            json = { site = run.to }, headers = { ["Idempotency-Key"] = run.id .. "-" .. run.to },
          })
        end,
      },
    },
  },
}
