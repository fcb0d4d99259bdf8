-- Planted: the name gets the address of one site, in both directions.
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
        skip = "test", rollback = "again",
        function() dns.update { server = "10.0.0.53", name = "shop.example.com.", a = "10.20.0.10", key = key } end,
      },
    },
  },
}
