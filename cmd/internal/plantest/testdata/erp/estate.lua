-- The estate of the example plans: three tiers, two sites.
local function app(n)
  return machine("app" .. n) {
    host = "par-2", tags = { "erp", "erp-app" }, ip = { lan = 20 + n },
    disk "root" { file = "/vm/app" .. n .. ".img" }, exec = { unit = "erp-app" },
    ready = { http = ":8080/health", within = "3m" },
  }
end

return estate "acme" {
  policy "gold" { every = "30s", rpo = "1m", keep = { "all for 1h", "5m for 1d" } },
  secret "dns-key" { file = "/etc/drrun/dns.key" },
  site "paris" {
    network "lan"    { cidr = "10.10.0.0/24", bridge = "br0" },
    network "bubble" { cidr = "10.99.0.0/24", bridge = "br9", isolated = true },
    cloud "prod" { policy = "gold", to = "dr",
      host "par-1" { addr = "10.10.0.5", store = "/srv/drrun", allow = { "systemctl" } },
      host "par-2" { addr = "10.10.0.6", store = "/srv/drrun", allow = { "systemctl" } },
    },
  },
  site "lyon" {
    network "lan"    { cidr = "10.20.0.0/24", bridge = "br0" },
    network "bubble" { cidr = "10.99.0.0/24", bridge = "br9", isolated = true },
    cloud "dr" { policy = "gold", to = "prod",
      host "lyo-1" { addr = "10.20.0.5", store = "/srv/drrun", allow = { "systemctl" } },
    },
  },
  machine "db1" { host = "par-1", tags = "erp", ip = { lan = 11 }, disk "root" { file = "/vm/db1.img" }, exec = { unit = "postgresql" },
    ready = { tcp = ":5432", within = "5m" } },
  app(1), app(2),
  machine "lb1" { host = "par-1", tags = "erp", ip = { lan = 10 }, disk "conf" { file = "/srv/lb.img" }, exec = { unit = "haproxy" } },
}
