package service

// Logged is the interceptor of requests.
var Logged = logged
