-- shop.lua: a good plan. Checks wait for what they ask, what acts outside is
-- left out of tests, can be done twice or stands alone, and is taken back.
local dns = require "drrun.dns"
local programs = require "drrun.exec"
local http = require "drrun.http"
local key = secret "dns-key"

return plan "shop" {
  from = "paris", to = "lyon", rto = "30m", rpo = "1m",
  drill = { cron = "0 3 * * SUN", tz = "Europe/Paris" },

  shutdown = {
    before = exec "close the shop" { on = "lb1", cmd = "systemctl stop shop-front", only = "planned" },
    force_after = "1m",
  },

  group "data" {
    machine "db1",
    machine "queue",
  },

  group "workers" {
    machines { tag = "worker" },
    parallel = 1,
  },

  wait "go/no-go" { ask = "Do the numbers of the shop add up?", role = "approver", within = "2h", skip = "test" },

  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "10m" },
      action "point DNS at the active site" {
        skip = "test", rollback = "again",
        function(run)
          dns.update { server = "10.0.0.53", name = "shop.example.com.", a = run:machine("lb1").ip, ttl = "60s", key = key }
        end,
      },
      check "the name has arrived" {
        skip = "test", within = "5m",
        function(run)
          local seen = dns.lookup("shop.example.com.", { server = "10.0.0.53", type = "A" })
          return seen[1] == run:machine("lb1").ip, "it is " .. tostring(seen[1])
        end,
      },
      action "move the licence" {
        only = { "planned", "unplanned" }, rollback = "again",
        function() programs.run { on = "lb1", cmd = { "systemctl", "start", "licence-move" } } end,
      },
      action "open a ticket" {
        skip = "test", rollback = "again",
        function(run)
          http.post("https://desk.example.com/tickets", {
            json = { site = run.to }, headers = { ["Idempotency-Key"] = run.id .. "-" .. run.to },
          })
        end,
      },
    },
  },
}
