-- Planted: the application starts before its database.
return plan "shop" {
  from = "paris", to = "lyon", rto = "15m", rpo = "1m",

  group "application" { machine "app1" },
  group "databases" { machine "db1" },
  group "edge" { machine "lb1", after = check "balancer answers" { tcp = "lb1:443", within = "2m" } },
}
