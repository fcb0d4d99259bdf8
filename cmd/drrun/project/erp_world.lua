-- What the simulated world of erp.lua is like, for drrun test and drrun explore.
return function(w)
  w:needs("app1", "db1")
  w:needs("app2", "db1")
  w:needs("lb1", "app1", "app2")
end
