"""A dump of a production that has everything in it that could reach out of a clone."""

DUMP = r"""/*M!999999\- enable the sandbox mode */
-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: db.example    Database: shop
-- ------------------------------------------------------
/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
CHANGE MASTER TO MASTER_LOG_FILE='db-bin.000042', MASTER_LOG_POS=4711;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `shop` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `shop`;
DROP TABLE IF EXISTS `customer`;
CREATE TABLE `customer` (
  `id` int(11) NOT NULL AUTO_INCREMENT,
  `name` varchar(50) NOT NULL,
  `upper_name` varchar(50) GENERATED ALWAYS AS (upper(`name`)) STORED,
  `data` longtext CHECK (json_valid(`data`)),
  PRIMARY KEY (`id`)
) ENGINE=InnoDB AUTO_INCREMENT=3 DEFAULT CHARSET=utf8mb4;
LOCK TABLES `customer` WRITE;
/*!40000 ALTER TABLE `customer` DISABLE KEYS */;
INSERT INTO `customer` (`id`, `name`, `data`) VALUES (1,'Zoë; \'O\\Neil\' -- x','{\"a\": 1}'),(2,'日本',NULL);
/*!40000 ALTER TABLE `customer` ENABLE KEYS */;
UNLOCK TABLES;
CREATE TABLE `old` (`a` int, `b` varchar(10)) ENGINE=MyISAM DEFAULT CHARSET=latin1;
INSERT INTO `old` VALUES (1,'café');
CREATE TABLE `log` (`a` int) ENGINE=Aria
PARTITION BY RANGE (`a`) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO `log` VALUES (1),(20);
CREATE TABLE `remote` (`a` int) ENGINE=FEDERATED CONNECTION='mysql://repl:hunter2@db.example/shop/remote';
/*!50003 SET sql_mode = 'STRICT_TRANS_TABLES' */ ;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON customer FOR EACH ROW
BEGIN SET NEW.name = trim(NEW.name); END */;;
DELIMITER ;
DELIMITER ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 SECOND DO
DELETE FROM customer */ ;;
DELIMITER ;
DELIMITER ;;
CREATE DEFINER=`root`@`localhost` PROCEDURE `who`()
BEGIN SELECT current_user(); END ;;
DELIMITER ;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`app`@`10.%` SQL SECURITY DEFINER */
/*!50001 VIEW `names` AS select `name` from `customer` */;
CREATE USER `app`@`10.%` IDENTIFIED BY PASSWORD '*14E65567ABDB5135D0CFD9A70B3032C179A49EE7';
GRANT ALL PRIVILEGES ON *.* TO `app`@`10.%`;
INSTALL SONAME 'ha_federatedx';
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `mysql` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `mysql`;
INSERT INTO `servers` VALUES ('s','db.example','shop','repl','hunter2',3306,'','mysql','root');
DROP TABLE IF EXISTS `global_priv`;
CREATE DATABASE /*!32312 IF NOT EXISTS*/ `depot` /*!40100 DEFAULT CHARACTER SET utf8mb4 */;
USE `depot`;
CREATE TABLE `shelf` (`a` int);
USE `shop`;
/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
-- Dump completed on 2026-11-20  3:00:00
"""
