# -*- mode: ruby -*-
# Merged by kitchen-vagrant into its own Vagrantfile (kitchen.yml): the pinned Salt, before Kitchen
# looks for one.
require_relative "whole_state"

Vagrant.configure("2") do |config|
  config.vm.provision "file", source: File.join(__dir__, "..", "bootstrap"), destination: "/tmp/bootstrap"
  config.vm.provision "shell", inline: "sh /tmp/bootstrap/bootstrap.sh"
end
