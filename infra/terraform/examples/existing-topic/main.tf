# A health check that has an alarm already, whose topic stays, and a topic with a key that reaches people already.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.0"
    }
  }
}

variable "bucket" {
  description = "An existing bucket in us-east-1."
  type        = string
}

variable "artifact" {
  description = "The file of the functions' code, as infra/package arm64 builds it."
  type        = string
}

variable "health_check_id" {
  description = "The primary's health check."
  type        = string
}

variable "alarm_name" {
  description = "The alarm on it, which notifies topic_arn."
  type        = string
}

variable "topic_arn" {
  description = "The topic that the alarm notifies."
  type        = string
}

variable "people_topic_arn" {
  description = "A topic that reaches people already."
  type        = string
}

variable "people_key_arn" {
  description = "The key of people_topic_arn. Its policy lets cloudwatch.amazonaws.com use it."
  type        = string
}

module "failover" {
  source = "../.."

  bucket                 = var.bucket
  artifact               = var.artifact
  health_check_id        = var.health_check_id
  topic_arn              = var.topic_arn
  alarm_name             = var.alarm_name
  notification_topic_arn = var.people_topic_arn
  notification_key_arn   = var.people_key_arn
}
