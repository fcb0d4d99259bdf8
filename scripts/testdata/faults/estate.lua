-- An estate with a mistake in nearly every line.
return estate "acme" {
  policy "gold" { every = 30, keep = { "everything for 1h", "5m for 1d" }, rate = "200Mbit", start_alone = "aks" },
  policy "gold" { every = "1m" },

  site "paris" {
    network "lan" { cidr = "10.10.0.5/24" },
    cloud "prod" { policy = "glod", to = "drr",
      host "par-1" { adr = "10.10.0.5", store = "srv/drrun" },
    },
  },
  site "lyon" {
    network "lan" { cidr = "10.20.0.0/33" },
    cloud "dr" { to = "prod",
      host "lyo-1" { addr = "10.20.0.5" },
    },
  },

  machine "db1" {
    host = "par-9", ip = { lan = 300, wan = 5 }, tags = { "erp", 5, false },
    disk "root" { file = "/vm/db1.img", device = "/dev/sdb" },
    disk "root" { file = "/vm/db2.img" },
    exec = { start = "/usr/bin/db {disk.rot} $HOME", freeze = "/bin/f" },
    ready = { tcp = "5432", within = "5x" },
  },
  machine "db2" {
    host = "par-1",
    exec = { start = { "/usr/bin/db", "{disk.root}" }, freeze = "/bin/f" },
  },
  machine "vm1" { host = "par-1", disk "a" { file = "/vm/a.img" }, qemu = { memory = "4GiB" } },
  machine "par-1" { host = "par-1", disk "a" { file = "/vm/a.img" }, exec = { unit = "x" } },
  secret "key" { file = "/etc/key", env = "KEY" },
  group "g" { },
}
