-- Deletes metas whose job has neither data nor an outcome that expires by itself: nobody will ever ask for them.
-- A push writes data and meta in one step, so such a meta is never a job that is just coming.
--
-- KEYS[1] data  hash  id -> envelope
-- KEYS[2..]     hash  metas
-- ARGV    the id of each meta, 500 at most
--
-- Answer: how many were deleted

local deleted = 0
for i, id in ipairs(ARGV) do
    if redis.call('HEXISTS', KEYS[1], id) == 0 and redis.call('PTTL', KEYS[1 + i]) == -1 then
        deleted = deleted + redis.call('UNLINK', KEYS[1 + i])
    end
end
return deleted
