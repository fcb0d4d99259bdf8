-- estate.lua: the ERP service of two sites, Paris and Lyon.
--
-- In your own estate, paths and addresses stand here in words. This one takes
-- them from lab.lua beside it, so that the example runs on one machine.
local lab = require "lab"

-- A machine of the example is one process, the ledger service, on its disks.
local function ledger(disks)
  local start = { lab.ledger, "serve", "--listen", "{ip}:" .. lab.port }
  for _, name in ipairs(disks) do
    start[#start + 1] = "--" .. name
    start[#start + 1] = "{disk." .. name .. "}"
  end
  if lab.lie_at then
    start[#start + 1] = "--lie-at"
    start[#start + 1] = lab.lie_at
  end
  return start
end

local function url(command)
  return { lab.ledger, command, "http://{ip}:" .. lab.port }
end

local ready = { http = ":" .. lab.port .. "/health", expect = 200, every = "100ms", within = "30s" }

return estate "erp-example" {
  policy "gold" {
    every = lab.every, rpo = "10s",
    keep = { "all for 1h", "1m for 1d" },
  },

  site "paris" {
    network "lan"    { cidr = lab.paris_lan },
    network "bubble" { cidr = lab.bubble, isolated = true },
    cloud "prod" { policy = "gold", to = "dr",
      host "par-1" { addr = lab.paris_agent, store = lab.root .. "/paris/store" },
    },
  },

  site "lyon" {
    network "lan"    { cidr = lab.lyon_lan },
    network "bubble" { cidr = lab.bubble, isolated = true },
    cloud "dr" { policy = "gold", to = "prod",
      host "lyo-1" { addr = lab.lyon_agent, store = lab.root .. "/lyon/store" },
    },
  },

  -- Two disks, written in order: log, then ledger. Its freeze commands make
  -- application-consistent points.
  machine "db1" {
    host = "par-1", tags = "erp", ip = { lan = 11 },
    disk "log"    { file = lab.root .. "/paris/vm/db1-log.img" },
    disk "ledger" { file = lab.root .. "/paris/vm/db1-ledger.img" },
    exec = {
      start = ledger { "log", "ledger" },
      freeze = url "freeze", thaw = url "thaw",
      force_after = "10s",
    },
    ready = ready,
  },

  -- No freeze command: the process is stopped for a moment, which makes
  -- crash-consistent points.
  machine "app1" {
    host = "par-1", tags = { "erp", "erp-app" }, ip = { lan = 21 },
    disk "ledger" { file = lab.root .. "/paris/vm/app1.img" },
    exec = { start = ledger { "ledger" }, force_after = "10s" },
    ready = ready,
  },

  machine "app2" {
    host = "par-1", tags = { "erp", "erp-app" }, ip = { lan = 22 },
    disk "ledger" { file = lab.root .. "/paris/vm/app2.img" },
    exec = {
      start = ledger { "ledger" },
      freeze = url "freeze", thaw = url "thaw",
      force_after = "10s",
    },
    ready = ready,
  },
}
