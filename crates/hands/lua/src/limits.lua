-- Library functions behind a look at the limits. Called with what checks and what charges.
local check, charge, elements_max, sorted_max = ...
local type, rawget, math_tointeger = type, rawget, math.tointeger

-- No `pcall` goes on with what a limit has ended.
local function guarded(...) check() return ... end
local pcall_, xpcall_ = pcall, xpcall
function pcall(...) return guarded(pcall_(...)) end
function xpcall(...) return guarded(xpcall_(...)) end

-- A finalizer runs where no limit holds.
local setmetatable_ = setmetatable
function setmetatable(t, m)
  if type(m) == "table" and rawget(m, "__gc") ~= nil then error("a finalizer (__gc) is not allowed", 2) end
  return setmetatable_(t, m)
end

local function span(first, last) return (math_tointeger(last) or 0) - (math_tointeger(first) or 0) end
local t_move, t_sort, t_concat, t_insert, t_remove, t_unpack =
  table.move, table.sort, table.concat, table.insert, table.remove, table.unpack
function table.move(a, f, e, ...) charge(span(f, e), elements_max) return t_move(a, f, e, ...) end
function table.sort(t, ...) charge(#t * 8, sorted_max * 8) return t_sort(t, ...) end
function table.concat(t, s, i, j) charge(span(i or 1, j or #t), elements_max) return t_concat(t, s, i, j) end
function table.unpack(t, i, j) charge(span(i or 1, j or #t), elements_max) return t_unpack(t, i, j) end
function table.insert(t, p, ...)
  if select("#", ...) == 0 then return t_insert(t, p) end
  charge(span(p, #t), elements_max)
  return t_insert(t, p, ...)
end
function table.remove(t, p) charge(p and span(p, #t) or 0, elements_max) return t_remove(t, p) end
