-- What the simulated world of the ERP service is like.
return function(w)
  w:needs("app1", "db1")
  w:needs("app2", "db1")
  w:needs("lb1", "app1", "app2")
  w:harmless("systemctl stop pgbouncer") -- the pooler starts with its machine
end
