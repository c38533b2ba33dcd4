package main

import (
	"os"
	"slices"
	"syscall"
	"testing"
)

// A process that is anything but what it should be says so.
func TestCheckCredential(t *testing.T) {
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	own := syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	for _, g := range groups {
		own.Groups = append(own.Groups, uint32(g))
	}
	if err := checkCredential(&own); err != nil {
		t.Error(err)
	}
	for _, change := range []func(c *syscall.Credential){
		func(c *syscall.Credential) { c.Uid++ },
		func(c *syscall.Credential) { c.Gid++ },
		func(c *syscall.Credential) { c.Groups = nil },
	} {
		c := own
		change(&c)
		if err := checkCredential(&c); err == nil && (c.Groups != nil || groups != nil) {
			t.Errorf("%+v passes for %+v", own, c)
		}
	}
	back := credentialFrom(credentialList(&own))
	if back.Uid != own.Uid || back.Gid != own.Gid || !slices.Equal(back.Groups, own.Groups) {
		t.Errorf("%+v became %+v", own, *back)
	}
}
