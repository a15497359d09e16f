#!/usr/bin/env ruby
# frozen_string_literal: true

# Sample app in Ruby: answers POST /foo/bar. It knows nothing of the protocol; the edge before it does.
#
# Usage: server.rb [ADDRESS:PORT [SECRET_FILE]]    (without arguments: 127.0.0.1 and the port in PORT)
#
# With SECRET_FILE only requests whose header `keelson-edge-secret` holds that secret are answered.
# Ruby's standard library has no HTTP server (webrick became a gem), so the few lines of HTTP that a
# JSON app needs are below: one thread a connection, kept open, bodies of a declared length.

require "json"
require "openssl"
require "socket"

LONGEST_BODY = 1 << 20 # bytes; what an edge forwards by default
LONGEST_LINE = 16_384 # bytes of a header line; the forwarded attributes are the longest
MOST_HEADERS = 100
REASONS = { 200 => "OK", 400 => "Bad Request", 403 => "Forbidden", 404 => "Not Found", 405 => "Method Not Allowed",
            411 => "Length Required", 413 => "Content Too Large" }.freeze

def read_headers(socket)
  headers = {}
  MOST_HEADERS.times do
    line = socket.gets("\n", LONGEST_LINE)&.chomp
    return nil if line.nil?
    return headers if line.empty?

    name, value = line.split(":", 2)
    headers[name.downcase] = value.to_s.strip
  end
  nil
end

def from_edge?(given, secret)
  secret.nil? || (given.bytesize == secret.bytesize && OpenSSL.fixed_length_secure_compare(given, secret))
end

def answer_to(method, path, body)
  return [404, { error: "no such path" }] unless path.split("?").first == "/foo/bar"
  return [405, { error: "POST only" }] unless method == "POST"

  request = JSON.parse(body)
  [200, { wasFoo: request.fetch("foo"), wasBar: request.fetch("bar"), serverName: "ruby" }]
rescue JSON::ParserError, JSON::NestingError, KeyError, NoMethodError, TypeError, EncodingError
  [400, { error: "the body must be a JSON object with foo and bar" }]
end

# Writes one answer; true while the connection is good for another request.
def send_answer(socket, status, value, close)
  body = JSON.generate(value)
  socket.write("HTTP/1.1 #{status} #{REASONS.fetch(status)}\r\ncontent-type: application/json\r\n" \
               "content-length: #{body.bytesize}\r\n#{"connection: close\r\n" if close}\r\n#{body}")
  !close
end

# Answers one request.
def serve_one(socket, secret)
  method, path, version = socket.gets("\n", LONGEST_LINE)&.split
  headers = read_headers(socket) if version
  return false if headers.nil?

  length = headers.fetch("content-length", method == "POST" ? "" : "0")
  return send_answer(socket, 411, { error: "content-length is missing" }, true) unless length.match?(/\A\d+\z/)
  return send_answer(socket, 413, { error: "the body is too large" }, true) if length.to_i > LONGEST_BODY

  body = socket.read(length.to_i)
  close = version != "HTTP/1.1" || headers["connection"]&.downcase == "close"
  unless from_edge?(headers.fetch("keelson-edge-secret", ""), secret)
    return send_answer(socket, 403, { error: "only the edge may call this app" }, close)
  end

  send_answer(socket, *answer_to(method, path, body.force_encoding("UTF-8")), close)
end

def serve(socket, secret)
  socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
  nil while serve_one(socket, secret)
rescue IOError, SystemCallError
  nil # the edge went away
ensure
  socket.close
end

listen, secret_file = ARGV
listen ||= "127.0.0.1:#{ENV.fetch("PORT", "3000")}"
secret = File.read(secret_file).chomp if secret_file
address, _, port = listen.rpartition(":")
server = TCPServer.new(address, port.to_i)
server.listen(128)
Signal.trap("TERM") { exit }
loop { Thread.new(server.accept) { |socket| serve(socket, secret) } }
