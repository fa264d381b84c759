-- What a receiving server might ask of a script. Try it: tuma policy test examples/policy.lua

local blocked = { ["spam.example"] = true }
local no_reply = tuma.regex([[^no-?reply\+?]])

-- A client that calls itself by our own name is lying.
tuma.on("hello", function(session, hello)
  if hello.name == session.hostname and not session.trusted then
    return tuma.reject(550, "5.7.1", "you are not me")
  end
  session.notes.name = hello.name
end)

tuma.on("mail", function(session, mail)
  if mail.domain and blocked[mail.domain] then
    return tuma.reject(550, "5.7.1", "mail from " .. mail.domain .. " is not welcome")
  end
end)

-- Mail to no-reply addresses is taken and thrown away.
tuma.on("rcpt", function(session, rcpt)
  if no_reply:is_match(rcpt.local_part) then
    return tuma.discard("nobody reads " .. rcpt.address)
  end
end)

tuma.on("message", function(session, message)
  local subject = message:header("Subject") or ""
  if subject:find("%[bulk%]") then
    message.priority = "bulk"
    message.campaign = "newsletter"
  end
  message:remove_header("X-Internal-Note")
  message:add_header("X-Policy", "checked " .. (session.notes.name or session.peer))
end)

-- The tests of this script.

tuma.test("blocked senders are refused", function(client)
  client:connect { peer = "192.0.2.1" }
  client:hello("client.example")
  local reply = client:mail("someone@spam.example")
  assert(reply.code == 550 and reply.status == "5.7.1", reply.text)
  assert(client:mail("someone@good.example") == nil)
end)

tuma.test("mail to no-reply addresses goes nowhere", function(client)
  client:connect()
  client:mail("a@good.example")
  assert(client:rcpt("no-reply@here.example").answer == "discard")
  assert(client:rcpt("person@here.example") == nil)
end)

tuma.test("newsletters are bulk", function(client)
  client:connect()
  client:hello("client.example")
  client:mail("a@good.example")
  client:rcpt("person@here.example")
  local answer, message = client:message("Subject: [bulk] news\r\nX-Internal-Note: x\r\n\r\nhello\r\n")
  assert(answer == nil and message.priority == "bulk")
  assert(message:header("X-Policy") == "checked client.example")
  assert(message:header("X-Internal-Note") == nil)
end)
