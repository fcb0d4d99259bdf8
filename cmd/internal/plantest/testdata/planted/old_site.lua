-- Planted: the check asks the machine of the old site.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "databases" { machine "db1",
    after = check "database answers" { tcp = "10.10.0.11:5432", within = "2m" },
  },
  group "application" { machine "app1" },
  group "edge" {
    machine "lb1",
    after = {
      check "balancer answers" { tcp = "lb1:443", within = "2m" },
    },
  },
}
