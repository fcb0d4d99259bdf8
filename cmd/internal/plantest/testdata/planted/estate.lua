-- The estate of the planted plans: a database, an application, a balancer.
return estate "shop" {
  policy "gold" { every = "30s", rpo = "1m" },
  secret "dns-key" { file = "/etc/drrun/dns.key" },
  site "paris" {
    network "lan"    { cidr = "10.10.0.0/24" },
    network "bubble" { cidr = "10.99.0.0/24", isolated = true },
    cloud "prod" { policy = "gold", to = "dr", host "par-1" { addr = "10.10.0.5", store = "/srv/drrun", allow = { "systemctl" } } },
  },
  site "lyon" {
    network "lan"    { cidr = "10.20.0.0/24" },
    network "bubble" { cidr = "10.99.0.0/24", isolated = true },
    cloud "dr" { policy = "gold", to = "prod", host "lyo-1" { addr = "10.20.0.5", store = "/srv/drrun", allow = { "systemctl" } } },
  },
  machine "db1"  { host = "par-1", ip = { lan = 11 }, disk "root" { file = "/vm/db1.img" }, exec = { unit = "postgresql" },
    ready = { tcp = ":5432", within = "5m" } },
  machine "app1" { host = "par-1", ip = { lan = 21 }, disk "root" { file = "/vm/app1.img" }, exec = { unit = "shop" },
    ready = { http = ":8080/health", within = "3m" } },
  machine "lb1"  { host = "par-1", ip = { lan = 10 }, disk "root" { file = "/vm/lb1.img" }, exec = { unit = "haproxy" } },
}
