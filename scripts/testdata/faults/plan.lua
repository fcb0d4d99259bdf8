-- A plan with a mistake in nearly every line.
local http = require "drrun.http"
local shell = require "drrun.htp"

http.get("https://example.com/")

counter = 0

return plan "erp" {
  from = "paris", tu = "lyon", rto = "15 minutes",
  drill = { cron = "0 0 31 2 *", tz = "Europe/Pariss" },
  params = { ttl = { type = "duration", default = "soon" } },

  group "databases" {
    machine "db1",
    nil,
    machine "db1",
    before = check "late" { tcp = "db1:5432" },
    after = exec "drain" { onn = "lb1", cmd = "systemctl stop x | tee log", only = "planed" },
  },

  wait "go" { ask = "Is it consistent?", ask = "Are you sure?", on_timeout = "continu" },

  group "databases" {
    machine "app1" { needs = { "app2" } },
    machin "app2",
    after = {
      check "health" { http = "http://app1:8080/health", expect = "200" },
      action "dns" { function(run) return machine "app1", rum.id end },
    },
  },

  group "empty" {},
  group "bodyless",
  failover = { before = function() end },
}
