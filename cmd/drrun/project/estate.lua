-- What exists, where it runs, how it is protected. drrun apply estate.lua erp.lua

local function app(n) -- machines that differ by a number
  return machine("app" .. n) {
    host = "par-2",
    tags = { "erp", "erp-app" },
    ip = { lan = 20 + n },
    disk "root" { file = "/vm/app" .. n .. ".img" },
    exec = { start = { "/usr/local/bin/erp-app", "--disk", "{disk.root}", "--listen", "{ip}:8080" } },
    ready = { http = ":8080/health", within = "3m" },
  }
end

return estate "acme" {
  policy "gold" { every = "30s", rpo = "1m", keep = { "all for 1h", "5m for 1d", "1h for 7d" } },
  secret "dns-key" { file = "/etc/drrun/dns.key" },

  site "paris" {
    network "lan" { cidr = "10.10.0.0/24", bridge = "br0" },
    network "bubble" { cidr = "10.99.0.0/24", bridge = "br9", isolated = true }, -- tests run here
    cloud "prod" {
      policy = "gold",
      to = "dr", -- the replicas of its machines live in that cloud
      host "par-1" { addr = "10.10.0.5", store = "/srv/drrun", allow = { "systemctl" } },
      host "par-2" { addr = "10.10.0.6", store = "/srv/drrun" },
    },
  },
  site "lyon" {
    network "lan" { cidr = "10.20.0.0/24", bridge = "br0" },
    network "bubble" { cidr = "10.99.0.0/24", bridge = "br9", isolated = true },
    cloud "dr" {
      policy = "gold",
      to = "prod",
      host "lyo-1" { addr = "10.20.0.5", store = "/srv/drrun", allow = { "systemctl" } },
    },
  },

  machine "db1" {
    host = "par-1",
    tags = "erp",
    ip = { lan = 11 }, -- 10.10.0.11, in Lyon 10.20.0.11, in a test 10.99.0.11
    disk "root" { file = "/vm/db1.img" },
    disk "data" { file = "/vm/db1-data.img" },
    exec = { unit = "postgresql" },
    ready = { tcp = ":5432", within = "5m" },
  },
  each({ 1, 2 }, app),
  machine "lb1" {
    host = "par-1",
    tags = "erp",
    ip = { lan = 10 },
    disk "conf" { file = "/vm/lb1.img" },
    exec = { unit = "haproxy" },
  },
}
