-- Planted: after a rollback the name still points at the site that was left.
local dns = require "drrun.dns"
local key = secret "dns-key"
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1", },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
      action "point DNS" {
        skip = "test",
        function(run) dns.update { server = "10.0.0.53", name = "shop.example.com.", a = run:machine("lb1").ip, key = key } end,
      },
    },
  },
}
