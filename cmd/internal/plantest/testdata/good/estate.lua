-- The estate of the good plans: a shop of a database, a queue, two workers and
-- a balancer. What others need has a readiness question of its own; what nobody
-- needs is asked by the plans.
local function worker(n)
  return machine("worker" .. n) { host = "par-2", tags = "worker", ip = { lan = 20 + n }, disk "root" { file = "/vm/worker" .. n .. ".img" },
    exec = { unit = "worker" }, ready = { exec = "worker-alive", within = "3m" } }
end

return estate "shop" {
  allow = { "desk", "router" },
  policy "gold" { every = "30s", rpo = "1m" },
  secret "dns-key" { file = "/etc/drrun/dns.key" },
  site "paris" {
    network "lan"    { cidr = "10.10.0.0/24" },
    network "bubble" { cidr = "10.99.0.0/24", isolated = true },
    cloud "prod" { policy = "gold", to = "dr",
      host "par-1" { addr = "10.10.0.5", store = "/srv/drrun", allow = { "systemctl", "worker-alive" } },
      host "par-2" { addr = "10.10.0.6", store = "/srv/drrun", allow = { "systemctl", "worker-alive" } },
    },
  },
  site "lyon" {
    network "lan"    { cidr = "10.20.0.0/24" },
    network "bubble" { cidr = "10.99.0.0/24", isolated = true },
    cloud "dr" { policy = "gold", to = "prod",
      host "lyo-1" { addr = "10.20.0.5", store = "/srv/drrun", allow = { "systemctl", "worker-alive" } },
      host "lyo-2" { addr = "10.20.0.6", store = "/srv/drrun", allow = { "systemctl", "worker-alive" } },
    },
  },
  machine "db1"   { host = "par-1", ip = { lan = 11 }, disk "root" { file = "/vm/db1.img" }, disk "data" { file = "/vm/db1-data.img" },
    exec = { unit = "postgresql" }, ready = { tcp = ":5432", within = "8m" } },
  machine "queue" { host = "par-2", ip = { lan = 12 }, disk "root" { file = "/vm/queue.img" }, exec = { unit = "rabbitmq" },
    ready = { http = ":15672/api", within = "5m" } },
  worker(1), worker(2),
  machine "lb1"   { host = "par-1", ip = { lan = 10 }, disk "root" { file = "/vm/lb1.img" }, exec = { unit = "haproxy" } },
}
