return function(w)
  w:needs("app1", "db1")
  w:needs("lb1", "app1")
  w:boot("db1", "6m")
end
